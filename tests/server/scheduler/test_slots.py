"""server.scheduler.slots and server.scheduler.memory_estimate: which trial trains next, and where."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from memory.records import Trial
from server.owner.assembly import slots_of
from server.scheduler.memory_estimate import PROCESS_MB, MemoryEstimate, body_mb
from server.scheduler.slots import PATIENCE, Lease, Place, Slots
from server.settings import Settings, SettingsError
from tests.support.examples import FACTS, study, trial
from trainers.contract.specs import SPECS

pytestmark = pytest.mark.anyio
CPU = (Place(None, 0), Place(None, 1))


class Desk:
    """Takes places, and lets go of them by name."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.order: list[str] = []
        self.leases: dict[str, Lease] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, study_id: str, memory_mb: float = 0.0) -> None:
        """Asks for a place and comes back at once."""

        async def hold() -> None:
            async with self.slots.take(study_id, memory_mb) as lease:
                self.order.append(name)
                self.leases[name] = lease
                await self._ends[name].wait()

        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(hold())
        await settled()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await settled()


async def settled() -> None:
    """Everything that can go on has."""
    for _ in range(6):
        await asyncio.sleep(0)


async def asked(slots: Slots, wanted: Sequence[tuple[str, str]]) -> Desk:
    desk = Desk(slots)
    for name, study_id in wanted:
        await desk.ask(name, study_id)
    return desk


async def test_the_study_with_the_fewest_trainings_is_served_first() -> None:
    desk = await asked(Slots(CPU, {}), [("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("b2", "b")])
    assert desk.order == ["a1", "a2"]
    await desk.end("a1")
    assert desk.order[2:] == ["b1"]  # the other study has one already
    await desk.end("a2")
    assert desk.order[3:] == ["a3"]
    await desk.end("b1")
    assert desk.order[4:] == ["b2"]


async def test_places_are_spread_over_the_gpus_and_given_back() -> None:
    places = [Place(gpu, lane) for lane in range(2) for gpu in (0, 3)]
    desk = await asked(Slots(places, {0: 1000.0, 3: 1000.0}), [])
    for number in range(5):
        await desk.ask(str(number), "s", 300.0)
    assert [(desk.leases[name].place.gpu, desk.leases[name].place.lane) for name in desk.order] == [
        (0, 0), (3, 0), (0, 1), (3, 1),
    ]  # fmt: skip
    await desk.end("1")
    assert desk.leases["4"].place == Place(3, 0)


async def test_what_does_not_fit_beside_others_waits_and_what_fits_goes_first() -> None:
    desk = Desk(Slots((*CPU, Place(None, 2)), {None: 1000.0}))
    await desk.ask("large", "a", 700.0)
    await desk.ask("larger", "a", 800.0)
    await desk.ask("small", "a", 200.0)
    assert desk.order == ["large", "small"]
    await desk.end("large")
    assert desk.order == ["large", "small", "larger"]


async def test_a_trial_larger_than_the_machine_is_trained_alone() -> None:
    desk = Desk(Slots(CPU, {None: 1000.0}))
    await desk.ask("huge", "a", 5000.0)
    await desk.ask("small", "a", 100.0)
    assert desk.order == ["huge"]
    await desk.end("huge")
    assert desk.order == ["huge", "small"]


async def test_nobody_is_overtaken_for_ever() -> None:
    desk = Desk(Slots(CPU, {None: 1000.0}))
    await desk.ask("0", "a", 100.0)
    await desk.ask("large", "a", 950.0)
    for number in range(1, PATIENCE + 1):
        await desk.ask(str(number), "a", 100.0)
        await desk.end(str(number - 1))
    await desk.ask("late", "a", 100.0)
    assert desk.order == [str(number) for number in range(PATIENCE + 1)]
    await desk.end(str(PATIENCE))
    assert desk.order[-1] == "large"
    await desk.end("large")
    assert desk.order[-1] == "late"


async def test_what_waits_for_one_device_does_not_hold_up_the_others() -> None:
    slots = Slots([Place(gpu, lane) for gpu in (0, 1) for lane in range(2)], {0: 1000.0, 1: 1000.0})
    desk = Desk(slots)
    for name in ("0", "1", "2", "3"):
        await desk.ask(name, "s", 100.0)
    await desk.ask("whole", "s", slots.whole_mb)
    for number in range(4, 4 + PATIENCE):
        await desk.ask(str(number), "s", 100.0)
        await desk.end(str(number - 4))
    on: dict[int | None, list[str]] = {0: [], 1: []}
    for number in range(PATIENCE, 4 + PATIENCE):
        on[desk.leases[str(number)].place.gpu].append(str(number))
    await desk.end(on[0][0])
    await desk.ask("small", "s", 100.0)
    assert "small" not in desk.leases  # that device is kept now
    await desk.end(on[1][0])
    assert desk.leases["small"].place.gpu == 1
    assert "whole" not in desk.leases
    await desk.end(on[0][1])
    assert desk.leases["whole"].place.gpu == 0


async def test_who_gives_up_leaves_no_trace() -> None:
    desk = await asked(Slots(CPU[:1], {}), [("first", "a"), ("second", "b"), ("third", "c")])
    await desk.cancel("second")
    await desk.end("first")
    assert desk.order == ["first", "third"]
    await desk.cancel("third")
    await desk.ask("fourth", "d")
    assert desk.order[-1] == "fourth"


async def test_a_place_that_was_granted_to_one_who_gave_up_is_free_again() -> None:
    slots = Slots(CPU[:1], {})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(slots.take("a", 0.0))
        late = asyncio.create_task(stack.enter_async_context(slots.take("b", 0.0)))
        await settled()
    late.cancel()
    await asyncio.wait({late})
    async with asyncio.timeout(5):
        async with slots.take("c", 0.0) as lease:
            assert lease.place == CPU[0]


CONFIG = SPECS["sasrec"]().model_dump()


async def test_who_wants_a_whole_device_has_nobody_beside_it() -> None:
    slots = Slots(CPU, {None: 1000.0})
    desk = Desk(slots)
    await desk.ask("small", "a", 10.0)
    await desk.ask("whole", "a", slots.whole_mb)
    assert desk.order == ["small"]
    await desk.end("small")
    await desk.ask("next", "b", 10.0)
    assert desk.order == ["small", "whole"]
    await desk.end("whole")
    assert desk.order == ["small", "whole", "next"]


async def test_a_device_that_is_too_small_is_not_taken_because_it_is_empty() -> None:
    slots = Slots([Place(0), Place(1)], {0: 72000.0, 1: 3600.0})
    desk = Desk(slots)
    for name in ("first", "second"):
        await desk.ask(name, "a", 10000.0)
    await desk.ask("third", "b", 3000.0)
    assert {name: lease.place.gpu for name, lease in desk.leases.items()} == {"first": 0, "third": 1}
    await desk.end("first")
    assert desk.leases["second"].place.gpu == 0
    await desk.ask("huge", "b", 1e9)
    assert "huge" not in desk.leases
    await desk.end("second")
    assert desk.leases["huge"].place.gpu == 0


async def test_work_that_takes_no_place_is_company_nevertheless() -> None:
    slots = Slots(CPU, {None: 1000.0})
    desk = Desk(slots)
    await desk.ask("before", "a")
    assert not slots.crowded(desk.leases["before"])
    async with slots.guest() as guest:
        assert guest.place == CPU[0]
        assert slots.crowded(desk.leases["before"])
        await desk.end("before")
        await desk.ask("meanwhile", "a")
        assert slots.crowded(desk.leases["meanwhile"])
    await desk.end("meanwhile")
    await desk.ask("after", "a")
    assert not slots.crowded(desk.leases["after"])


async def test_a_place_is_crowded_once_others_were_beside_it_on_a_device_whose_memory_is_known() -> None:
    slots = Slots([*CPU, Place(0, 0), Place(0, 1), Place(1, 0)], {None: 1000.0, 1: 1000.0})
    desk = await asked(slots, [(name, "a") for name in "abcde"])
    by_place = {lease.place: lease for lease in desk.leases.values()}
    assert [slots.crowded(by_place[place]) for place in (*CPU, Place(0, 0), Place(1, 0))] == [True, True, False, False]
    second = next(name for name, lease in desk.leases.items() if lease.place == CPU[1])
    await desk.end(second)
    assert slots.crowded(by_place[CPU[0]])
    await desk.ask("again", "a")
    first = next(name for name, lease in desk.leases.items() if lease.place == CPU[0])
    await desk.end("again")
    await desk.end(first)
    await desk.ask("anew", "a")
    assert not slots.crowded(desk.leases["anew"])


@pytest.mark.parametrize(
    "larger", [{"hidden_dim": 256}, {"num_blocks": 4}, {"batch_size": 4096}, {"tie_embeddings": False}]
)
def test_a_larger_model_is_expected_to_want_more(larger: dict[str, Any]) -> None:
    assert body_mb("sasrec", {**CONFIG, **larger}, FACTS) > body_mb("sasrec", CONFIG, FACTS)


def ended(peak_mb: float, device: str = "cpu (x86_64)", status: Any = "ok") -> Trial:
    return trial(0, 0.1, status=status, peak_memory_mb=peak_mb, device=device)


def test_what_was_seen_corrects_what_is_expected_of_the_same_data_only() -> None:
    need, one, tried = MemoryEstimate(), study(), trial(0, 0.1)
    rough = need.of(one, tried)
    need.observe(one, ended(PROCESS_MB + 3 * body_mb("sasrec", tried.config, FACTS)))
    assert need.of(one, tried) == pytest.approx(PROCESS_MB + 3 * (rough - PROCESS_MB))
    assert need.of(study(dataset_hash="other"), tried) == rough
    need.observe(one, ended(1e6, status="crashed"))
    assert need.of(one, tried) == pytest.approx(PROCESS_MB + 3 * (rough - PROCESS_MB))


def test_what_earlier_owners_saw_is_recalled_once() -> None:
    one, tried, asked = study(), trial(0, 0.1), list[str]()

    def earlier(study_id: str) -> list[Trial]:
        asked.append(study_id)
        return [ended(PROCESS_MB + 3 * body_mb("sasrec", tried.config, FACTS))]

    need = MemoryEstimate(earlier)
    expected = MemoryEstimate().of(one, tried) - PROCESS_MB
    assert [need.of(one, tried) for _ in range(2)] == [pytest.approx(PROCESS_MB + 3 * expected)] * 2
    assert asked == [one.study_id]


def test_on_a_gpu_the_driver_s_share_comes_on_top_of_the_tensors() -> None:
    need, one, tried = MemoryEstimate(), study(), trial(0, 0.1)
    need.observe(one, ended(2 * body_mb("sasrec", tried.config, FACTS), "NVIDIA H100"))
    assert need.of(one, tried) == pytest.approx(PROCESS_MB + 2 * 1.15 * body_mb("sasrec", tried.config, FACTS))


def test_a_trainer_that_nobody_knows_is_given_something() -> None:
    assert MemoryEstimate().of(study(backbone="mine"), trial(0, 0.1)) > PROCESS_MB


def test_a_gpu_that_is_not_there_is_named(tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=r"gpus=\[7\]: there is no GPU 7 here"):
        slots_of(Settings(home=tmp_path, gpus=(7,)))


def test_two_slots_share_the_cores(tmp_path: Any) -> None:
    one, two = Settings(home=tmp_path), Settings(home=tmp_path, slots=2)
    assert two.threads == max(1, one.threads // 2)
    assert slots_of(two).places == 2
