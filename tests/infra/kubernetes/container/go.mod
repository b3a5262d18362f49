module esper.dev/tests/kubernetes/container

go 1.26.0
