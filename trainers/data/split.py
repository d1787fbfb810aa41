"""How a dataset is split: by holding out the last two items of each user, or by two points in time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf, nextafter

import numpy as np
import numpy.typing as npt

from trainers.data.dataset import Cuts, Sequences
from trainers.data.errors import DataError

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class TimeSplit:
    """The start of validation and of the test, each given as a time or as a number of days.

    `test_days` count back from the last event, `valid_days` from the start of the test.
    """

    valid_from: datetime | None = None
    test_from: datetime | None = None
    valid_days: float | None = None
    test_days: float | None = None

    def cuts(self, last: float) -> Cuts:
        """The two times in the unit of the file's timestamps, the newest of which is `last`. Raises DataError."""
        second = _unit(last)
        test = _start_of_period(self.test_from, self.test_days, last, second, "test")
        valid = _start_of_period(self.valid_from, self.valid_days, test, second, "valid")
        if valid >= test:
            begin, end = _date(valid, second), _date(test, second)
            raise DataError(f"Validation would begin at {begin}, which is not before the test at {end}.")
        return Cuts(valid, test, f"time: validation from {_date(valid, second)}, test from {_date(test, second)}")


def parts(sequences: Sequences) -> tuple[Arrays, Arrays]:
    """The arrays stored for training, and the sealed ones. Raises DataError if a period has no usable event."""
    return _leave_one_out(sequences) if sequences.cuts is None else _by_time(sequences, sequences.cuts)


def suggested(sequences: Sequences, least: int) -> str | None:
    """Cuts that leave at least `least` users to validate and to test on, or as many as there can be; None if no better.

    They are tried from the smallest test period up; both periods hold about as many events.
    """
    times, cuts = sequences.times, sequences.cuts
    assert times is not None
    assert cuts is not None
    present = min(_users_of(sequences, cuts.valid, cuts.test))
    best: tuple[int, float, float] = (present, cuts.valid, cuts.test)
    for share in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        test, valid = (float(np.floor(cut)) for cut in np.quantile(times, (1 - share, 1 - 2 * share)))
        if valid < test:
            best = max(best, (min(least, *_users_of(sequences, valid, test)), valid, test), key=lambda cut: cut[0])
        if best[0] >= least:
            break
    if best[0] <= present:
        return None
    validated, tested = _users_of(sequences, *best[1:])
    begin, end = (datetime.fromtimestamp(cut, UTC).strftime("%Y-%m-%dT%H:%M:%S") for cut in best[1:])
    return f"--valid-from {begin} --test-from {end} would leave {validated:,} users to validate and {tested:,} to test."


def _users_of(sequences: Sequences, valid: float, test: float) -> tuple[int, int]:
    """How many users validate and test with these cuts: those with an event in a period and one before it."""
    assert sequences.times is not None
    first = np.minimum.reduceat(sequences.times, sequences.offsets[:-1])
    users = [_first_after(sequences, begin, end)[0] for begin, end in ((valid, test), (test, inf))]
    return int((first[users[0]] < valid).sum()), int((first[users[1]] < test).sum())


def training_part(sequences: Sequences) -> Sequences:
    """The training events of a time split, for the users who have any; without a time split, `sequences`."""
    if sequences.cuts is None or sequences.times is None:
        return sequences
    early = sequences.times < sequences.cuts.valid
    kept = np.add.reduceat(early.astype(np.int64), sequences.offsets[:-1])
    offsets = np.concatenate(([0], np.cumsum(kept[kept > 0])))
    return Sequences(sequences.items[early], offsets, sequences.num_items, sequences.times[early], sequences.cuts)


def _leave_one_out(sequences: Sequences) -> tuple[Arrays, Arrays]:
    items, ends = sequences.items, sequences.offsets[1:]
    validation, test = items[ends - 2], items[ends - 1]
    training = np.ones(len(items), dtype=np.bool_)
    training[ends - 1] = training[ends - 2] = False
    offsets = sequences.offsets - 2 * np.arange(len(sequences.offsets))
    train: Arrays = {"items": items[training], "offsets": offsets.astype(np.int64), "validation": validation}
    if sequences.times is not None:
        train["times"] = sequences.times[training]
    return train, {"test": test}


def _by_time(sequences: Sequences, cuts: Cuts) -> tuple[Arrays, Arrays]:
    """Holds out each user's first item after a cut, to be predicted from all events before that cut.

    Users with training events come first, so users who appear later do not change their numbers.
    """
    training = training_part(sequences)
    users, places = _first_after(sequences, cuts.valid, cuts.test)
    in_training = users < len(training.offsets) - 1
    if not in_training.any():
        raise DataError("No user has an event both before and in the validation period; move the cuts.")
    train: Arrays = {
        "items": training.items,
        "offsets": training.offsets,
        "validation": sequences.items[places[in_training]],
        "validated": users[in_training],
    }
    assert training.times is not None
    train["times"] = training.times
    users, places = _first_after(sequences, cuts.test, inf)
    lengths = places - sequences.offsets[users]
    users, places, lengths = users[lengths > 0], places[lengths > 0], lengths[lengths > 0]
    if not len(users):
        raise DataError("No user has an event both before and in the test period; move the cuts.")
    offsets: npt.NDArray[np.int64] = np.concatenate(([0], np.cumsum(lengths)))
    before = np.repeat(places - offsets[1:], lengths) + np.arange(
        int(offsets[-1]), dtype=np.int64
    )  # places of their histories among all events
    sealed: Arrays = {
        "test": sequences.items[places],
        "items": sequences.items[before],
        "offsets": offsets.astype(np.int64),
        "users": users,
    }
    return train, sealed


def _first_after(sequences: Sequences, begin: float, end: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Users with an event in begin <= time < end, and the place of the first such event of each among all events."""
    times = sequences.times
    assert times is not None
    inside = np.flatnonzero((times >= begin) & (times < end))
    owners = np.searchsorted(sequences.offsets, inside, side="right") - 1
    users, first = np.unique(owners, return_index=True)
    return users, inside[first]


def _start_of_period(
    moment: datetime | None, days: float | None, reference: float, second: float, period: str
) -> float:
    if (moment is None) == (days is None):
        raise DataError(f"A time split needs one of --{period}-days N and --{period}-from DATE.")
    if moment is not None:
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * second
    if not days or days < 0:
        raise DataError(f"--{period}-days must be more than 0, not {days:g}.")
    return nextafter(reference - timedelta(days=days).total_seconds() * second, inf)


def _unit(last: float) -> float:
    """Timestamp units per second: timestamps that would be past the year 5000 in seconds are in a finer unit."""
    return next((factor for factor in (1.0, 1e3, 1e6) if abs(last) < 1e11 * factor), 1e9)


def _date(time: float, second: float) -> str:
    try:
        moment = datetime.fromtimestamp(time / second, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time:g}"
    return (
        moment.strftime("%Y-%m-%d") if moment.time().isoformat() == "00:00:00" else moment.isoformat(timespec="seconds")
    )
