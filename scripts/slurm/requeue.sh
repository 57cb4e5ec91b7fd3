# For the job scripts beside it: a command that is given SIGTERM when the job is, and then the time to write its checkpoint; the job
# goes back to the queue after that. A command that ends by itself ends the job with its exit code.

run_until_done() {
    local terminated="" code
    trap 'terminated=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
    "$@" &
    local step=$!
    wait "$step"
    code=$?
    # A trap ends the waiting early.
    while [ -n "$terminated" ] && kill -0 "$step" 2>/dev/null; do
        wait "$step"
        code=$?
    done
    if [ -n "$terminated" ]; then
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
    exit "$code"
}
