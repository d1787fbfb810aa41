"""A verdict in plain words: the gain, its interval, the chance, what a seed changed, and what would settle it."""

from __future__ import annotations

from memory.statistics.decide import DECIDED, LEADS, OPEN, WORTH, Comparison
from server.study.verdicts import Judgement, Ranking
from trainers.data import FEW_USERS, noise_of


def interval_words(comparison: Comparison) -> str:
    """The gain with its interval and the chance of being better."""
    return (
        f"{comparison.gain:+.1%}, 90 % interval {comparison.low:+.1%} to {comparison.high:+.1%}, "
        f"chance of being better {chance_words(comparison.chance)}"
    )


def chance_words(chance: float) -> str:
    """A chance in per cent; never quite none or all."""
    return "below 1 %" if chance < 0.01 else "above 99 %" if chance > 0.99 else f"{chance:.0%}"


def verdict_words(judged: Judgement, left_out: int = 0, users: int | None = None) -> str | None:
    """The verdict of a trial in a few sentences; None without a comparison. `left_out` seeds never started to learn.

    `users` is how many users are measured; few of them are said.
    """
    comparison, against = judged.comparison, judged.against
    if comparison is None or against is None:
        return None
    best = "" if judged.before is None else ", the best of the others"
    sentences = [f"{interval_words(comparison)}, against number {against.number}{best}.", _observed(comparison)]
    if left_out:
        seeds = "One seed" if left_out == 1 else f"{left_out} seeds"
        sentences.append(f"{seeds} never started to learn and {'does' if left_out == 1 else 'do'} not count.")
    if judged.before is not None:
        sentences.append(_what_a_seed_changed(judged.before, comparison))
    if comparison.verdict not in DECIDED:
        sentences.append(_settling(comparison, judged))
    if users is not None and users < FEW_USERS:
        sentences.append(f"Only {users:,} users are measured: {noise_of(users)}.")
    return " ".join(sentences)


def _observed(comparison: Comparison) -> str:
    words = f"Observed {comparison.observed:+.1%} with {_sides(comparison)}"
    if comparison.observed * comparison.gain >= 0:
        return f"{words}."
    return f"{words}; what is tried later is mostly worse, which turns the sign of what may be expected."


def _sides(comparison: Comparison) -> str:
    own, other = comparison.trainings
    if comparison.paired:
        return "1 pair on the same weights" if own == 1 else f"{own} pairs on the same weights"
    return f"{own} {'training' if own == 1 else 'trainings'} against {other}"


def _what_a_seed_changed(before: Comparison, after: Comparison) -> str:
    text = f"This seed moved the gain from {before.gain:+.1%} ({before.low:+.1%} to {before.high:+.1%})"
    if after.high - after.low > before.high - before.low:
        return f"{text}; it scattered more than expected, so the interval is wider."
    return f"{text}."


def _settling(comparison: Comparison, judged: Judgement) -> str:
    count = sum(len(one.seeds) for one in judged.retest)
    if count:
        trainings = "1 more training" if count == 1 else f"{count} more trainings"
        return f"{trainings} would show it {judged.settled_as} if the observed gain stays."
    if comparison.chance < WORTH:
        return "It can hardly change the choice, so nothing more is asked of it."
    if comparison.chance < OPEN:
        return "It can hardly change the choice: only trainings that are left over at the end are worth a seed of it."
    return "So small a difference would take many trainings to settle; nothing hangs on it."


def leader_words(ranking: Ranking) -> str | None:
    """Why the leader leads although another configuration has the higher mean; None where it has not."""
    leader = ranking.leader
    top = max(ranking.standings, key=lambda standing: standing.mean, default=None)
    if leader is None or top is None or top.config_hash == leader.config_hash:
        return None
    comparison = ranking.compare(top, leader)
    trainings = "one training" if len(top.scores) == 1 else f"{len(top.scores)} trainings"
    return (
        f"Number {top.number} has a mean that is {comparison.observed:+.1%} higher over {trainings}, mostly by luck: "
        f"its chance of being better is {chance_words(comparison.chance)}, and it takes {LEADS:.0%} to lead."
    )
