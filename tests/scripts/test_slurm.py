"""The job scripts start the launcher, hand SIGTERM on to it, and go back to the queue; Slurm's commands are stood in for."""

import os
import signal
import subprocess
import time

import pytest

from helpers.checkout import ROOT


# What the launcher does: it notes its arguments, and ends when it is asked to, after a moment.
ACCELERATE = """#!/bin/bash
echo "$@" > "$NOTES/launched"
trap 'sleep 0.3; echo saved > "$NOTES/checkpoint"; exit 1' TERM
[ -n "$CODE" ] && exit "$CODE"
while true; do sleep 0.05; done
"""
COMMANDS = {
    "accelerate": ACCELERATE,
    # Runs the step and remembers which process it is.
    "srun": '#!/bin/bash\n[ "$1" = --kill-on-bad-exit=1 ] && shift\necho $$ > "$NOTES/step"\nexec "$@"\n',
    "scancel": '#!/bin/bash\n[ "$1 $2" = "--signal=TERM 7" ] && kill -TERM "$(cat "$NOTES/step")"\n',
    "scontrol": '#!/bin/bash\n[ "$1" = show ] && printf "node3\\nnode4\\n"\n'
    '[ "$1" = requeue ] && ls "$NOTES" > "$NOTES/requeued"\nexit 0\n',
}
EXPECTED = {
    "one_node.sh": "launch -q --config_file scripts/accelerate/gpu_4_ddp.yaml --num_processes 2 stage.py --seed 3",
    "several_nodes.sh": "launch -q --config_file scripts/accelerate/two_nodes.yaml --num_machines 2 --num_processes 4"
    " --machine_rank 1 --main_process_ip node3 --main_process_port 20007 stage.py --seed 3",
}


def start(script, folder, **variables):
    commands = folder / "commands"
    commands.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "2", "SLURM_NNODES": "2", "SLURM_NODEID": "1"}
    slurm |= {"SLURM_JOB_NODELIST": "node[3-4]", "NOTES": str(folder), "PATH": f"{commands}:{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "scripts" / "slurm" / script), "stage.py", "--seed", "3"]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | slurm | variables, start_new_session=True)


@pytest.mark.parametrize("script", EXPECTED)
def test_a_job_whose_time_is_over_saves_and_goes_back_to_the_queue(tmp_path, script):
    job = start(script, tmp_path)
    try:
        launched = tmp_path / "launched"
        while job.poll() is None and not (launched.exists() and launched.read_text()):
            time.sleep(0.02)
        time.sleep(0.2)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert launched.read_text().strip() == EXPECTED[script]
    # When it went back, the checkpoint was there.
    assert "checkpoint" in (tmp_path / "requeued").read_text().split()


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("script", EXPECTED)
def test_a_job_that_ends_by_itself_ends_with_the_code_of_its_stage(tmp_path, script, code):
    assert start(script, tmp_path, CODE=str(code)).wait(60) == code
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("script", EXPECTED)
def test_jobs_ask_for_the_signal_and_to_be_requeued(script):
    lines = (ROOT / "scripts" / "slurm" / script).read_text().splitlines()
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@120", "#SBATCH --ntasks-per-node=1"} <= set(lines)
