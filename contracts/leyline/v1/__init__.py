"""Protobuf messages of package leyline.v1, generated from contracts/proto by `make proto`."""
