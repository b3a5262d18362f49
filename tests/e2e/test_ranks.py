"""``torchrun -m esper run``: one run, two processes, one voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from runs import fixed


def test_torchrun_trains_one_run_on_two_ranks(tmp_path: Path, library: Path, esper) -> None:
    run = fixed("blocks.0", "conv_block", kernels={"blueprints": ["conv_block"], "strategies": ["Fast"]})
    file, out = tmp_path / "run.yaml", tmp_path / "runs" / "two"
    file.write_text(yaml.safe_dump(run.model_dump(mode="json", by_alias=True, exclude_none=True)))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "esper", "run",
        str(file), "-o", str(out), "--library", str(library), "--plain",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("== training") == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["phase"] == "Completed"
    assert [seed["slot"] for seed in summary["seeds"]] == ["blocks.0"]
    for name in ("report.html", "model", "events.jsonl", "journal.jsonl"):
        assert (out / name).exists()
    code, text = esper("run", file, "-o", out, "--library", library, "--resume", "--plain")
    assert code == 2
    assert "2 ranks" in text
    assert "torchrun --nproc-per-node 2" in text
