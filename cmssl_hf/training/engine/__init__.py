"""Running and resuming a training, whatever is trained: nothing in here knows of ECG, PPG or codes."""
