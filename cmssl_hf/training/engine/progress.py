"""What a training shows while it runs: one bar, and a line of numbers for each log."""

from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


#: Logged by `Trainer`, but of no use while one waits.
_NOT_SHOWN = ("total_flos", "epoch", "_runtime", "_per_second")


class Progress(TrainerCallback):
    """In place of transformers' own callbacks, which draw a second bar for each validation and show numbers as text."""

    _bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                disable=args.disable_tqdm,
                dynamic_ncols=True,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._bar is not None and (line := log_line(logs or {})):
            self._bar.write(f"step {state.global_step}: {line}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def log_line(logs: dict[str, float]) -> str:
    """For example `"loss 0.4153, grad_norm 0.2317, learning_rate 7.6e-10"`; names of validation metrics lose their `eval_`."""
    shown = {name: value for name, value in logs.items() if not name.endswith(_NOT_SHOWN)}
    return ("validation: " if any(name.startswith("eval_") for name in shown) else "") + ", ".join(
        f"{name.removeprefix('eval_')} {value:.4g}" for name, value in shown.items()
    )
