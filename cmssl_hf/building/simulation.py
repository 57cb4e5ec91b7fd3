"""A physiological simulator of synchronous ECG and PPG whose heart rate, breathing, blood pressure and rhythm are known.

Beat times come from an integral pulse frequency modulation model with low-frequency variability and respiratory sinus
arrhythmia. Each beat adds P, Q, R, S and T waves of Gaussian shape to the ECG (after McSharry et al. 2003,
doi:10.1109/TBME.2003.808805) and, after a transit time that shortens with blood pressure (Moens and Korteweg), a systolic and a
reflected wave to the PPG. Breathing moves the baseline, the amplitude and the rate of the PPG. Premature ventricular beats, atrial
fibrillation, baseline wander, sensor noise and bursts of motion are added. numpy and scipy only.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter1d


RHYTHMS = ("sinus_rhythm", "ectopic_beats", "atrial_fibrillation")

# Physiology is computed on this grid (Hz), so that it does not depend on the sampling rate of the signals.
_GRID_RATE = 20.0
# Beats before the beginning and after the end whose waves reach into the recording.
_MARGIN = 3.0

# Mean arterial pressure (mmHg) at which the parameters of a subject hold, and how strongly the logarithms of pulse transit
# time and of the delay of the reflected wave change with it: about -1 ms per mmHg at the finger.
_REFERENCE_PRESSURE = 93.0
_TRANSIT_TIME_SLOPE = -0.006
_REFLECTION_SLOPE = -0.004

# Per wave of lead II: height (mV), delay after the R peak (s), rising and falling width (s).
_NORMAL_BEAT = {
    "P": (0.13, -0.165, 0.024, 0.022),
    "Q": (-0.09, -0.028, 0.009, 0.008),
    "R": (1.05, 0.0, 0.0105, 0.0105),
    "S": (-0.18, 0.028, 0.009, 0.012),
    "T": (0.28, 0.27, 0.055, 0.035),
}
_VENTRICULAR_BEAT = {
    "R": (1.35, 0.0, 0.035, 0.040),
    "S": (-0.45, 0.11, 0.035, 0.050),
    "T": (-0.40, 0.30, 0.065, 0.045),
}


@dataclass(frozen=True)
class SimulatedSubject:
    """Traits of a person: rates per minute, pressures in mmHg, times in s, ECG in mV, PPG in units of its mean pulse.

    `heart_rate_drift` and `pressure_drift` are standard deviations of slow changes; `low_frequency` and `sinus_arrhythmia` the relative
    modulation of heart rate at 0.1 Hz and with breathing; `baseline`, `amplitude_modulation` what breathing does to the PPG;
    `ectopic_share` and `fibrillation_share` the probability of a premature beat and of an episode of atrial fibrillation.
    """

    heart_rate: float
    heart_rate_drift: float
    low_frequency: float
    sinus_arrhythmia: float
    respiratory_rate: float
    systolic_pressure: float
    diastolic_pressure: float
    pressure_drift: float
    pre_ejection_period: float
    transit_time: float
    reflection: float
    reflection_delay: float
    perfusion: float
    baseline: float
    amplitude_modulation: float
    wave_heights: dict[str, float]
    wave_widths: dict[str, float]
    ecg_noise: float
    ecg_wander: float
    ppg_noise: float
    ppg_wander: float
    motion_per_minute: float
    ectopic_share: float
    fibrillation_share: float


@dataclass(frozen=True)
class SimulatedRecording:
    """A recording and what is true of it.

    Attributes:
        ecg: lead II in mV, shape `(samples,)`.
        ppg: shape `(samples,)`, arbitrary units.
        sampling_rate: Hz.
        beat_times: R-peak times in s, shape `(beats,)`.
        pulse_times: arrival of each beat's pulse at the PPG sensor in s, shape `(beats,)`.
        ectopic: whether a beat is a premature ventricular one, shape `(beats,)`.
        fibrillation: whether a beat belongs to atrial fibrillation, shape `(beats,)`.
        systolic_pressure, diastolic_pressure: of each beat in mmHg, shape `(beats,)`.
        breath_phase: completed breaths at each time of `breath_times`.
        breath_times: s.
    """

    ecg: np.ndarray
    ppg: np.ndarray
    sampling_rate: float
    beat_times: np.ndarray
    pulse_times: np.ndarray
    ectopic: np.ndarray
    fibrillation: np.ndarray
    systolic_pressure: np.ndarray
    diastolic_pressure: np.ndarray
    breath_phase: np.ndarray
    breath_times: np.ndarray

    def heart_rate(self, start: float, end: float) -> float:
        """Beats per minute between two times, from the mean interval between beats; NaN with fewer than two beats."""
        beats = self.beat_times[self._between(start, end)]
        return 60.0 * (len(beats) - 1) / (beats[-1] - beats[0]) if len(beats) > 1 else float("nan")

    def respiratory_rate(self, start: float, end: float) -> float:
        """Mean breaths per minute between two times."""
        first, last = np.interp((start, end), self.breath_times, self.breath_phase)
        return 60.0 * (last - first) / (end - start)

    def blood_pressure(self, start: float, end: float) -> tuple[float, float]:
        """Mean systolic and diastolic pressure in mmHg of the beats between two times; NaN without beats."""
        beats = self._between(start, end)
        if not beats.any():
            return float("nan"), float("nan")
        return float(self.systolic_pressure[beats].mean()), float(self.diastolic_pressure[beats].mean())

    def rhythm(self, start: float, end: float) -> int:
        """Index into `RHYTHMS`: `"atrial_fibrillation"` if most beats between two times belong to it, else `"ectopic_beats"` if any is
        premature, else `"sinus_rhythm"`."""
        beats = self._between(start, end)
        if beats.any() and self.fibrillation[beats].mean() > 0.5:
            return RHYTHMS.index("atrial_fibrillation")
        return RHYTHMS.index("ectopic_beats" if self.ectopic[beats].any() else "sinus_rhythm")

    def _between(self, start: float, end: float) -> np.ndarray:
        return (self.beat_times >= start) & (self.beat_times < end)


def draw_subject(rng: np.random.Generator, arrhythmia_share: float = 0.2) -> SimulatedSubject:
    """Draws an adult at rest.

    Args:
        rng: source of chance.
        arrhythmia_share: probability of having premature beats and episodes of atrial fibrillation. Other people have a premature
            beat now and then.
    """

    def normal(mean: float, deviation: float, low: float, high: float) -> float:
        return float(np.clip(rng.normal(mean, deviation), low, high))

    systolic = normal(124, 18, 85, 190)
    has_arrhythmia = rng.random() < arrhythmia_share
    return SimulatedSubject(
        heart_rate=normal(78, 15, 46, 125),
        heart_rate_drift=rng.uniform(1, 7),
        low_frequency=rng.uniform(0.005, 0.03),
        sinus_arrhythmia=rng.uniform(0.005, 0.06),
        respiratory_rate=normal(16, 4, 8, 28),
        systolic_pressure=systolic,
        diastolic_pressure=normal(20 + 0.45 * systolic, 6, 45, 0.75 * systolic),
        pressure_drift=rng.uniform(2, 9),
        pre_ejection_period=normal(0.085, 0.01, 0.06, 0.12),
        transit_time=normal(0.15, 0.012, 0.11, 0.19),
        reflection=normal(0.5, 0.12, 0.2, 0.8),
        reflection_delay=normal(0.24, 0.025, 0.18, 0.30),
        perfusion=float(rng.lognormal(0, 0.4)),
        baseline=rng.uniform(0.05, 0.25),
        amplitude_modulation=rng.uniform(0.03, 0.15),
        wave_heights={wave: float(rng.lognormal(0, 0.25)) for wave in _NORMAL_BEAT},
        wave_widths={wave: normal(1, 0.12, 0.7, 1.4) for wave in _NORMAL_BEAT},
        ecg_noise=float(rng.lognormal(np.log(0.012), 0.5)),
        ecg_wander=rng.uniform(0.02, 0.15),
        ppg_noise=float(rng.lognormal(np.log(0.008), 0.5)),
        ppg_wander=rng.uniform(0.02, 0.2),
        motion_per_minute=rng.choice([0.0, 0.3, 1.0]),
        ectopic_share=rng.uniform(0.02, 0.1) if has_arrhythmia else rng.choice([0.0, 0.002]),
        fibrillation_share=rng.uniform(0.2, 0.6) if has_arrhythmia else 0.0,
    )


def simulate_recording(
    subject: SimulatedSubject, seconds: float, sampling_rate: float, rng: np.random.Generator
) -> SimulatedRecording:
    """Simulates a recording of one person.

    Beats, breaths and pressures depend on `subject`, `seconds` and the state of `rng` only; with another `sampling_rate` (Hz)
    they are the same and only the noise differs.

    Raises:
        ValueError: if `seconds` or `sampling_rate` is not positive.
    """
    if seconds <= 0 or sampling_rate <= 0:
        raise ValueError(f"`seconds` and `sampling_rate` must be positive, but are {seconds} and {sampling_rate}.")
    body, sensors = rng.spawn(2)
    times = np.arange(-_MARGIN, seconds + _MARGIN, 1 / _GRID_RATE)
    breath_rate = subject.respiratory_rate * np.exp(0.12 * _slow_noise(body, len(times), _GRID_RATE, 30.0))
    breath_phase = body.random() + np.cumsum(breath_rate) / 60 / _GRID_RATE
    breath_depth = np.exp(0.15 * _slow_noise(body, len(times), _GRID_RATE, 10.0))
    # Breathing in is quicker than breathing out: the second harmonic skews the wave.
    breathing = breath_depth * (np.sin(2 * np.pi * breath_phase) + 0.2 * np.sin(4 * np.pi * breath_phase))
    rate = _instantaneous_heart_rate(subject, times, breathing, body)
    beats, ectopic, fibrillation = _beats(subject, times, rate, body)

    common = subject.pressure_drift * _slow_noise(body, len(times), _GRID_RATE, 40.0) - 1.5 * breathing
    separate = 0.4 * subject.pressure_drift * _slow_noise(body, len(times), _GRID_RATE, 40.0)
    systolic = np.interp(beats, times, subject.systolic_pressure + common)
    diastolic = np.interp(beats, times, subject.diastolic_pressure + 0.6 * common + separate)
    pulse_pressure = np.maximum(systolic - diastolic, 10.0)
    pressure = diastolic + pulse_pressure / 3 - _REFERENCE_PRESSURE
    arrivals = beats + subject.pre_ejection_period + subject.transit_time * np.exp(_TRANSIT_TIME_SLOPE * pressure)

    intervals = np.diff(beats, prepend=2 * beats[0] - beats[1])
    num_samples = round(seconds * sampling_rate)
    breathing_at = np.interp(np.arange(num_samples) / sampling_rate, times, breathing)
    breath_at_beat = np.interp(beats, times, breathing)
    ecg = _ecg(subject, beats, intervals, ectopic, fibrillation, breath_at_beat, num_samples, sampling_rate, body)
    stroke = _stroke(intervals) * np.sqrt(pulse_pressure / 40) * (1 + subject.amplitude_modulation * breath_at_beat)
    ppg = _ppg(subject, arrivals, intervals, stroke, pressure, num_samples, sampling_rate)
    ppg += subject.baseline * breathing_at

    ecg += subject.ecg_wander * _slow_noise(sensors, num_samples, sampling_rate, 2.0)
    ppg += subject.ppg_wander * _slow_noise(sensors, num_samples, sampling_rate, 4.0)
    ecg_motion, ppg_motion = _motion(subject, num_samples, sampling_rate, sensors)
    ecg += ecg_motion + subject.ecg_noise * sensors.standard_normal(num_samples)
    ppg += ppg_motion + subject.ppg_noise * sensors.standard_normal(num_samples)
    inside = (beats >= 0) & (beats < seconds)
    return SimulatedRecording(
        ecg=ecg,
        ppg=subject.perfusion * ppg,
        sampling_rate=sampling_rate,
        beat_times=beats[inside],
        pulse_times=arrivals[inside],
        ectopic=ectopic[inside],
        fibrillation=fibrillation[inside],
        systolic_pressure=systolic[inside],
        diastolic_pressure=diastolic[inside],
        breath_phase=breath_phase,
        breath_times=times,
    )


def _slow_noise(rng: np.random.Generator, number: int, rate: float, time_scale: float) -> np.ndarray:
    """Smooth Gaussian noise of unit variance whose correlation time is about `time_scale` seconds."""
    # Drawn at eight points per `time_scale` and interpolated: the cost and the draws do not depend on the rate.
    width = 4
    positions = np.arange(number) / rate * 2 * width / time_scale
    knots = rng.standard_normal(int(positions[-1]) + 2 + 8 * width)
    smooth = gaussian_filter1d(knots, width)[4 * width : -4 * width] * np.sqrt(2 * np.sqrt(np.pi) * width)
    return np.interp(positions, np.arange(len(smooth)), smooth)


def _instantaneous_heart_rate(
    subject: SimulatedSubject, times: np.ndarray, breathing: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    drift = subject.heart_rate_drift * _slow_noise(rng, len(times), _GRID_RATE, 25.0)
    # The 0.1 Hz (Mayer) wave wanders in phase.
    mayer = np.sin(2 * np.pi * (0.1 * times + rng.random() + 0.3 * _slow_noise(rng, len(times), _GRID_RATE, 15.0)))
    modulation = 1 + subject.low_frequency * mayer + subject.sinus_arrhythmia * breathing
    return np.clip((subject.heart_rate + drift) * modulation, 35, 180)


def _beats(
    subject: SimulatedSubject, times: np.ndarray, rate: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Beat times, and whether each is premature or belongs to atrial fibrillation."""
    phase = np.cumsum(rate) / 60 / _GRID_RATE
    beats = np.interp(np.arange(1, int(phase[-1])), phase, times)
    early = rng.random(len(beats)) < subject.ectopic_share
    early[0] = early[-1] = False
    early[1:] &= ~early[:-1]
    # The sinus node keeps its time: what follows a premature beat is a compensatory pause.
    places = np.flatnonzero(early)
    coupling = rng.uniform(0.55, 0.75, len(places))
    beats[places] = beats[places - 1] + coupling * (beats[places] - beats[places - 1])
    fibrillating = np.zeros(len(beats), dtype=bool)
    for start, end in _episodes(subject, times, rng):
        before, after = beats < start, beats >= end
        if before.sum() < 2 or not after.any():
            continue
        mean = 60 / (1.2 * np.interp(start, times, rate))
        intervals = np.maximum(rng.lognormal(np.log(mean) - 0.03, 0.24, int(2 * (end - start) / mean) + 2), 0.3)
        irregular = beats[before][-1] + np.cumsum(intervals)
        irregular = irregular[irregular < beats[after][0] - 0.35]
        filler = np.zeros(len(irregular), dtype=bool)
        beats = np.concatenate([beats[before], irregular, beats[after]])
        early = np.concatenate([early[before], filler, early[after]])
        fibrillating = np.concatenate([fibrillating[before], ~filler, fibrillating[after]])
    return beats, early, fibrillating


def _episodes(subject: SimulatedSubject, times: np.ndarray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Begin and end of the episodes of atrial fibrillation, each between 20 and 60 s long."""
    bounds = times[0] + np.cumsum(rng.uniform(20, 60, int((times[-1] - times[0]) / 20) + 2))
    bounds = np.concatenate([[times[0]], bounds])
    return [
        (float(start), float(end))
        for start, end in pairwise(bounds)
        if rng.random() < subject.fibrillation_share and start < times[-1]
    ]


def _stroke(intervals: np.ndarray) -> np.ndarray:
    """Relative stroke volume: the ventricle fills during the interval before a beat, quickly at first."""
    filling = 1 - np.exp(-(intervals - 0.3) / 0.3)
    return np.clip(filling, 0.1, None) / 0.85


def _add_waves(signal: np.ndarray, sampling_rate: float, centres, heights, rising, falling) -> None:
    """Adds waves with Gaussian flanks of their own widths (s) to a signal; all arguments have shape `(waves,)`."""
    centres, heights, rising, falling = (a[:, None] for a in np.broadcast_arrays(centres, heights, rising, falling))
    if not len(centres):
        return
    reach = int(np.ceil(4 * max(rising.max(), falling.max()) * sampling_rate))
    index = np.round(centres * sampling_rate).astype(np.int64) + np.arange(-reach, reach + 1)
    offset = index / sampling_rate - centres
    values = heights * np.exp(-0.5 * (offset / np.where(offset < 0, rising, falling)) ** 2)
    inside = (index >= 0) & (index < len(signal))
    np.add.at(signal, index[inside], values[inside])


def _ecg(subject, beats, intervals, ectopic, fibrillation, breathing, num_samples, sampling_rate, rng) -> np.ndarray:
    ecg = np.zeros(num_samples)
    # The heart turns with the lungs; repolarisation shortens with the interval (Bazett).
    axis = 1 + 0.06 * breathing
    repolarisation = np.sqrt(np.clip(intervals, 0.4, 1.5))
    for shape, members in ((_NORMAL_BEAT, ~ectopic), (_VENTRICULAR_BEAT, ectopic)):
        for wave, (height, delay, rising, falling) in shape.items():
            chosen = members & ~fibrillation if wave == "P" else members
            stretch = repolarisation[chosen] if wave == "T" else 1.0
            _add_waves(
                ecg,
                sampling_rate,
                beats[chosen] + delay * stretch,
                height * subject.wave_heights[wave] * axis[chosen],
                rising * subject.wave_widths[wave] * stretch,
                falling * subject.wave_widths[wave] * stretch,
            )
    times = np.arange(num_samples) / sampling_rate
    fibrillating = np.interp(times, beats, fibrillation.astype(float))
    # Atria that fibrillate leave a fine wave of 4-9 Hz in place of the P wave.
    frequency = rng.uniform(5, 8) + np.sin(2 * np.pi * rng.uniform(0.3, 0.6) * times)
    return ecg + 0.03 * fibrillating * np.sin(2 * np.pi * np.cumsum(frequency) / sampling_rate)


def _ppg(subject, arrivals, intervals, stroke, pressure, num_samples, sampling_rate) -> np.ndarray:
    ppg = np.zeros(num_samples)
    # Ejection is a little shorter at high rates, and so is all that follows.
    scale = np.clip(intervals / 0.8, 0.5, 1.6) ** 0.3
    peak = arrivals + 0.13 * scale
    _add_waves(ppg, sampling_rate, peak, stroke, 0.058 * scale, 0.095 * scale)
    delay = subject.reflection_delay * np.exp(_REFLECTION_SLOPE * pressure) * scale
    _add_waves(ppg, sampling_rate, peak + delay, subject.reflection * stroke, 0.075 * scale, 0.19 * scale)
    return ppg


def _motion(subject, num_samples, sampling_rate, rng) -> tuple[np.ndarray, np.ndarray]:
    """Bursts of motion in ECG and PPG, which feel the same movement to a different degree."""
    ecg, ppg = np.zeros(num_samples), np.zeros(num_samples)
    for _ in range(rng.poisson(subject.motion_per_minute * num_samples / sampling_rate / 60)):
        length = min(num_samples, round(rng.uniform(1, 4) * sampling_rate))
        start = rng.integers(0, num_samples - length + 1)
        movement, own = (_slow_noise(rng, length, sampling_rate, 0.15) * np.hanning(length) for _ in range(2))
        ppg[start : start + length] += rng.uniform(0.3, 1.5) * movement
        ecg[start : start + length] += rng.uniform(0.02, 0.25) * (0.5 * movement + own)
    return ecg, ppg
