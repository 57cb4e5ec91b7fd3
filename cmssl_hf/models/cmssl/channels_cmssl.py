"""Which of the named signals of a file a model reads: by name alone, and none whose name says that it is another one."""

import re
from collections.abc import Mapping, Sequence


#: Regular expressions for the names of a modality's channels, the preferred ones first: lead II before other leads.
CHANNEL_PATTERNS: dict[str, tuple[str, ...]] = {
    "ecg": (
        r"(ML|LEAD )?II",
        r"(ML|LEAD )?(I|III|V[1-9]?R?|AV[RLF])|MCL[1-6]?|MV[1-6]",
        r"ECG|EKG",
        r"(ECG|EKG).*",
        r".*[\W_](ECG|EKG)([\W_].*)?",
    ),
    "ppg": (r"PLETH|PPG", r"((PHOTO)?PLETH|PPG).*", r"BVP.*", r".*[\W_](PLETH|PPG|BVP)([\W_].*)?"),
}

#: Names that say nothing about what was recorded.
_NEUTRAL = (
    r"((raw|my)?[ _-]?(signals?|values?|samples?|data|raw|amplitude|adc|ch|channel|col|column|sig|unnamed)[ _:-]*\d*|x|\d*)"
    r"( ?[\[(].*[\])])?"
)
#: Names of columns that count the rows.
_COUNTER = r"|index|row|n|nseq|#|(sample|row)s?[ _]?(no|nr|number|index|id)?\.?|unnamed: 0"
#: Words for what is told of a signal, such as `ppg_time` or `ECG quality`.
_ABOUT = {"time", "times", "timestamp", "timestamps", "quality", "sqi", "rate", "hr", "bpm", "peak", "peaks", "label", "valid",
          "index", "flag", "ibi"}  # fmt: skip
#: Words for what was recorded, and for units.
_WORDS = {
    "ecg": {"ecg", "ekg"},
    "ppg": {"ppg", "bvp", "pleth", "photopleth"},
    "something else": {"abp", "acc", "accel", "accelerometer", "art", "arterial", "bloodpressure", "bp", "bpm", "celsius", "cvp",
                       "deg", "eda", "eeg", "emg", "eog", "gsr", "gyro", "heartrate", "hg", "hr", "ibi", "icp", "kpa", "mmhg",
                       "nibp", "pressure", "resp", "respiration", "rr", "spo", "tags", "temp", "temperature"},
}  # fmt: skip
#: Units of signals in lower case. Those of the raw numbers of a converter are of any.
_RAW_UNITS = {"", "adu", "adc", "au", "a.u.", "nu", "n.u.", "raw", "count", "counts", "lsb", "digit", "digits", "1", "-", "unitless",
              "dimensionless", "bit", "bits", "unknown"}  # fmt: skip
_UNITS = {
    "ecg": _RAW_UNITS | {"v", "mv", "uv", "µv", "μv", "nv", "volt", "volts", "millivolt", "microvolt"},
    "ppg": _RAW_UNITS | {"v", "mv", "uv", "µv", "μv", "nv", "%", "nw", "pa", "na", "ua", "µa", "μa", "ma", "pm"},
}
#: Oximeters call their PPG after what is computed from it.
_SAID_OF_PPG = {"spo"}
#: Words for a rate, without spaces.
_RATES = {
    "fs",
    "srate",
    *(f"{sampling}{rate}" for sampling in ("sampling", "sample") for rate in ("rate", "frequency", "freq")),
}
_RATE_IN_NAME = re.compile(r"(?<![A-Za-z\d.-])(\d+(?:\.\d+)?)[ _]?(k?)hz(?![A-Za-z])", re.IGNORECASE)


class SeveralSignalsError(ValueError):
    """Several signals are equally likely to be the one that a model reads."""


def words(name: str) -> list[str]:
    """The words of a name in lower case, without digits: `["time", "s"]` of `Time [s]`."""
    return re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name.replace("°", "deg ")).lower())


def is_rate(name: str) -> bool:
    """Whether a key or a column is one of rates in Hz by its name, such as `sampling_rate`, `Fs [Hz]` or `samplingRate`."""
    return "".join(words(name)).removesuffix("hz") in _RATES


def rate_in_name(name: str) -> float | None:
    """The rate in Hz that a name states, such as 64 of `PPG (64 Hz)`; `None` where it states none, or several, or one of a
    filter."""
    found = _RATE_IN_NAME.findall(name)
    if len(found) != 1 or re.search("filt|pass|notch|cut|lp|hp|bp", name, re.IGNORECASE):
        return None
    return float(found[0][0]) * (1000 if found[0][1] else 1) or None


def first_match(names: Sequence[str], patterns: Sequence[str]) -> int | None:
    """Position of the first name that wholly matches the earliest possible pattern, whatever its case; `None` if none does.
    Commas and spaces around a name do not count."""
    for pattern in patterns:
        for position, name in enumerate(names):
            if re.fullmatch(pattern, name.strip(" ,"), re.IGNORECASE):
                return position
    return None


def unit_in_name(name: str) -> str:
    """The unit in brackets behind a name, such as `mV` of `ECG [mV]`; empty if there is none."""
    found = re.search(r"[\[(]\s*([^\[\]()\d]{1,12}?)\s*[\])]\s*$", name)
    return found[1] if found else ""


def kind_of(name: str) -> str | None:
    """`"ecg"` or `"ppg"`, whichever a name tells of; `None` if it tells of neither."""
    if _ABOUT.intersection(words(name)):
        return None
    bare = re.sub(r"\s*[\[(][^\[\]()]*[\])]\s*$", "", name)
    for channel, patterns in CHANNEL_PATTERNS.items():
        if not _says_more(name, channel) and first_match([bare], patterns) is not None:
            return channel
    return None


def numbered_names(names: Sequence[str]) -> list[str]:
    """Names that are there several times get numbers: `ECG (1)`, `ECG (2)`."""
    known = [name.strip(" ,") for name in names]
    return [
        name if known.count(bare) == 1 or not bare else f"{bare} ({known[: i + 1].count(bare)})"
        for i, (name, bare) in enumerate(zip(names, known))
    ]


def every_signal(
    names: Sequence[str], column: str | Mapping[str, str] | None, where: str, not_signals: Sequence[int] = ()
) -> dict[str, int]:
    """Position of each signal by its name, or of the one that `column` names.

    Raises:
        ValueError: if there is none of that name.
    """
    if column is not None:
        return {str(column).strip(): choose_channels(names, ["signal"], str(column), where)["signal"]}
    return {
        name.strip(" ,") or f"signal {position + 1}": position
        for position, name in enumerate(names)
        if position not in not_signals and not (name and re.fullmatch(_COUNTER, name.strip(), re.IGNORECASE))
    }


def _most_likely(names: Sequence[str], patterns: Sequence[str]) -> list[int]:
    """Positions of all names that wholly match the earliest possible pattern."""
    for pattern in patterns:
        found = [i for i, name in enumerate(names) if re.fullmatch(pattern, name.strip(" ,"), re.IGNORECASE)]
        if found:
            return found
    return []


def choose_channels(
    names: Sequence[str],
    channels: Sequence[str],
    column: str | Mapping[str, str] | None,
    where: str,
    file_name: str = "",
    not_signals: Sequence[int] = (),
    units: Sequence[str] = (),
) -> dict[str, int]:
    """Position among `names` of each channel.

    Args:
        names: of the signals; empty where one has none.
        channels: that the model reads.
        column: the names that were asked for; they hold whatever they say.
        where: what messages call the source.
        file_name: or another text that tells what a single signal is whose own name says nothing.
        not_signals: positions of columns of another kind, such as times.
        units: of the signals, where a file states them; one that is of another quantity, or not known, must be asked for.

    Raises:
        ValueError: if a channel is not among them, or several are equally likely, or its unit is none of such a signal.
    """
    if isinstance(column, str) and len(channels) > 1:
        raise ValueError(f"The model reads {' and '.join(channels)}: `column` must give a name for each of them.")
    wanted = dict.fromkeys(channels, column) if isinstance(column, str) else dict(column or {})
    signals = [
        position
        for position, name in enumerate(names)
        if position not in not_signals and not _ABOUT.intersection(words(name))
    ]
    positions = {}
    for channel in channels:
        if channel in wanted:
            position = first_match(names, (re.escape(str(wanted[channel]).strip(" ,")),))
        else:
            own = [position for position in signals if not _says_more(names[position], channel)]
            likely = _most_likely([names[position] for position in own], CHANNEL_PATTERNS[channel])
            if len(likely) > 1:
                listed = ", ".join(names[own[i]].strip() for i in likely)
                raise SeveralSignalsError(
                    f"{where} has several signals that look like {channel}: {listed}. `column` names one."
                )
            position = own[likely[0]] if likely else None
            if position is None and len(channels) == 1:
                position = _single_unnamed(names, channel, not_signals, file_name)
        if position is None:
            sought = f"called {wanted[channel]!r}" if channel in wanted else f"that looks like {channel} by its name"
            listed = ", ".join(name.strip() or "one without a name" for name in names)
            raise ValueError(f"{where} has no signal {sought}; it has {listed}. `column` names one.")
        if units and channel not in wanted and units[position].strip().lower() not in _UNITS[channel]:
            listed = ", ".join(f"{name.strip()} ({unit or 'no unit'})" for name, unit in zip(names, units))
            raise ValueError(
                f"{where}: the unit {units[position]!r} of {names[position]!r} is none of {channel}; it has {listed}. `column`"
                " names one."
            )
        positions[channel] = position
    return positions


def _single_unnamed(names: Sequence[str], channel: str, not_signals: Sequence[int], file_name: str) -> int | None:
    """Position of the only signal, if neither its name nor that of its file says that it is another one."""
    single = [position for position in range(len(names)) if position not in not_signals]
    if len(single) > 1:
        single = [
            position for position in single if not re.fullmatch(_COUNTER, names[position].strip(), re.IGNORECASE)
        ]
    if len(single) != 1 or not re.fullmatch(_NEUTRAL, names[single[0]].strip(" ,"), re.IGNORECASE):
        return None
    return None if says_another(f"{file_name} {names[single[0]]}", channel) else single[0]


def _says_more(name: str, channel: str) -> bool:
    """Whether a name tells of another signal beside a channel: `PPG_ACC`, `RESP from ECG`."""
    others = set(signal_words(name)) - _WORDS[channel]
    return bool(others - _SAID_OF_PPG if channel == "ppg" else others)


def signal_words(text: str) -> list[str]:
    """The words of a text for what was recorded."""
    known = set().union(*_WORDS.values())
    return [word for word in map(_signal_word, words(text)) if word in known]


def _signal_word(word: str) -> str:
    """`ecg` of `ecgdata`."""
    return next((start for start in ("ecg", "ekg", "ppg", "bvp", "pleth") if word.startswith(start)), word)


def says_another(text: str, channel: str) -> bool:
    """Whether a text, such as the name of a file, names another kind of signal than a channel."""
    said = signal_words(text)
    return bool(said) and _WORDS[channel].isdisjoint(said)


__all__ = [
    "CHANNEL_PATTERNS",
    "SeveralSignalsError",
    "choose_channels",
    "every_signal",
    "first_match",
    "is_rate",
    "kind_of",
    "numbered_names",
    "rate_in_name",
    "says_another",
    "signal_words",
    "unit_in_name",
    "words",
]
