"""Strategies of hypothesis: signals and sampling rates, from plausible ones to nothing like it."""

import numpy as np
from hypothesis import HealthCheck
from hypothesis import strategies as st


# The same inputs every time: a failure here is one that can be repeated.
HYPOTHESIS_SETTINGS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
}
DTYPES = ["f8", "f4", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "bool"]


@st.composite
def signals(draw, max_samples=400):
    """One window, from a plausible one to nothing like it."""
    length = draw(st.integers(0, max_samples))
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    kind = draw(st.sampled_from(["wave", "noise", "constant", "extreme", "clipped", "steps", "text", "object"]))
    wave = np.sin(np.arange(length) / 9) + 0.1 * rng.standard_normal(length)
    if kind == "text":
        return draw(st.lists(st.text(max_size=3), max_size=5))
    if kind == "object":
        things = st.one_of(st.floats(), st.none(), st.text(max_size=2), st.booleans(), st.complex_numbers())
        return np.array([*draw(st.lists(things, max_size=5)), *wave[: length // 2]], dtype=object)
    if kind == "constant":
        wave = np.full(length, draw(st.floats()))
    elif kind == "extreme":
        values = [0.0, -0.0, 5e-324, 1e-310, 1e-30, 1.0, 1e30, 3.4e38, 1e150, 1e300, 1.7e308, -1.7e308]
        wave = rng.choice(values, length)
    elif kind == "clipped":
        wave = np.clip(wave, -0.2, 0.2)
    elif kind == "steps":
        wave = np.repeat(wave, 5)[:length]
    with np.errstate(all="ignore"):
        wave = wave * draw(st.sampled_from([1.0, 1.0, 1e-300, 1e-6, 1e6, 1e300, 1e308])) + draw(
            st.sampled_from([0.0, 0.0, 1e6, -1e15, 1e300])
        )
        for _ in range(draw(st.integers(0, 2))):
            if length:
                start = draw(st.integers(0, length - 1))
                bad = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
                wave[start : start + draw(st.integers(1, length))] = bad if draw(st.booleans()) else wave[start]
        wave = wave.astype(draw(st.sampled_from(["f8", "f8", "f4", *DTYPES])))
    shape = draw(st.sampled_from(["1-d", "1-d", "1-d", "list", "column", "cube", "scalar"]))
    if shape == "list":
        return wave.tolist()
    if shape == "column":
        return wave[:, None]
    if shape == "cube":
        return wave[None, None]
    if shape == "scalar":
        return wave[0] if length else None
    return wave
