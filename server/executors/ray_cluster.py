"""A Ray cluster as a driver sees it: what it can hold, the actors of one home on it, and what is sent to its nodes."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from server.executors import ray_node
from server.executors.base import ExecutorError, Slot
from server.executors.ray_files import Parcel

SUSPECT_SECONDS = 120.0
"""How long a node that has lost a training is avoided; by then Ray has marked it dead, or it is back."""
_LEAVE_SECONDS = 10.0
_KILLED = "killed by `ray.kill`"
_CAUSE = re.compile(r"The actor (?:is dead|died) because (.*?)[.:] ")


class Cluster(BaseModel):
    """Where trainings go and what each asks for.

    `label`: of the home, so that its actors are found. `gpus`: of a training, a fraction or a whole number. `command`:
    tests give another than the trainers'. `folder`: of a node, for code, datasets and work; None is one in its
    temporary folder. A node that says nothing for `heartbeat_seconds` has lost its trainings.
    """

    model_config = ConfigDict(frozen=True)

    address: str
    label: str
    datasets: Path
    gpus: float = 0.0
    command: tuple[str, ...] | None = None
    folder: Path | None = None
    heartbeat_seconds: float = 20.0

    @property
    def namespace(self) -> str:
        """Of the actors of this home."""
        return f"virtualmle-{self.label}"

    def asked(self, slot: Slot) -> dict[str, float]:
        """What a node must have for a training, in Ray's names."""
        memory = {} if slot.memory_mb is None else {"memory": float(slot.memory_mb << 20)}
        return {"CPU": float(slot.threads), "GPU": self.gpus} | memory


Blame = Literal["", "node", "silent"]


class Lost(Exception):
    """A training is gone, and another node may go on with it. `blame`: whether its node seems to be the cause, too."""

    def __init__(self, said: str, blame: Blame = "") -> None:
        super().__init__(said)
        self.blame: Blame = blame


class Gone(ExecutorError):
    """The cluster does not answer, and this driver is of no use any more."""


class Connection:
    """To a cluster, for as long as this process lives. Raises ExecutorError where there can be none."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._suspects: dict[str, tuple[float, Blame]] = {}
        self.node_lost = asyncio.Event()
        """Set, and replaced by another, each time that a node seems to be lost."""
        self._sent: dict[str, Any] = {}
        try:
            self._ray: Any = import_module("ray")
            self._ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="virtualmle")
        except ModuleNotFoundError as error:
            raise ExecutorError(f"executor='ray' needs {error.name}: pip install 'virtualmle[ray]'.") from None
        except Exception as error:  # Ray has no class for all that can be wrong with an address
            raise ExecutorError(
                f"The Ray cluster at {cluster.address} cannot be used: {_line(error)}: check ray_address, that Ray and "
                "Python are of the same version there, and RAY_AUTH_MODE and RAY_AUTH_TOKEN."
            ) from None
        self._ray.cloudpickle.register_pickle_by_value(ray_node)
        self._kind = self._ray.remote(ray_node.Node)

    async def take_over(self) -> None:
        """Ends the trainings of an earlier owner of the home."""
        found = await asyncio.to_thread(self._ray.util.list_named_actors, all_namespaces=True)
        names = [one["name"] for one in found if one["namespace"] == self.cluster.namespace]
        await asyncio.gather(*(self._take_over(name) for name in names))

    async def _take_over(self, name: str) -> None:
        try:
            actor = await asyncio.to_thread(self._ray.get_actor, name, namespace=self.cluster.namespace)
        except ValueError:  # gone meanwhile
            return
        with suppress(Lost, ExecutorError):
            await self.ask(actor.end, "taken over", seconds=_LEAVE_SECONDS)
        await self.end(actor)

    def actor(self, slot: Slot) -> Any:
        """A new one, on its way to a node that can hold it. Raises ExecutorError where there is none."""
        asked = self.cluster.asked(slot)
        options: dict[str, Any] = {
            "name": secrets.token_hex(6), "namespace": self.cluster.namespace, "num_cpus": asked["CPU"],
            "num_gpus": asked["GPU"], "max_restarts": 0, "max_task_retries": 0,
        }  # fmt: skip
        if "memory" in asked:
            options["memory"] = int(asked["memory"])
        try:
            if avoided := self._avoided(asked):
                options["label_selector"] = {"ray.io/node-id": f"!in({','.join(avoided)})"}
            return self._kind.options(**options).remote()
        except ExecutorError:
            raise
        except Exception as error:
            raise Gone(gone(self.cluster.address, _line(error))) from None

    async def ask(self, method: Any, *given: Any, seconds: float | None) -> Any:
        """What a method of an actor answers. Raises Lost, ExecutorError or Gone."""
        errors = self._ray.exceptions
        try:
            answer = asyncio.wrap_future(method.remote(*given).future())
        except Exception as error:  # Ray has no class of its own for a connection that is lost
            raise Gone(gone(self.cluster.address, _line(error))) from None
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(answer)  # Ray would stumble over one that is cancelled
        except errors.RayTaskError as error:  # raised by our own code on the node, and of that error's class, too
            raise ExecutorError(_on_node(error.cause)) from None
        except TimeoutError:
            raise Lost(f"its node has not answered for {seconds:g} s", "silent") from None
        except errors.ActorUnavailableError:
            raise Lost("its node cannot be reached", "node") from None
        except errors.RayActorError as error:
            if _KILLED in str(error):
                raise ExecutorError("The training was ended by somebody; the same run_trial goes on.") from None
            cause = _CAUSE.search(_line(error))
            said = cause[1] if cause else _line(error)
            raise Lost(said, "node" if "node has died" in said else "") from None
        except Exception as error:
            raise Lost(_line(error)) from None

    def reference(self, parcel: Parcel) -> list[Any]:
        """A parcel as nodes take it: kind, digest, and where to fetch it; it is put into the cluster once."""
        if parcel.digest not in self._sent:
            try:
                self._sent[parcel.digest] = self._ray.put(parcel.content)
            except Exception as error:
                raise Gone(gone(self.cluster.address, _line(error))) from None
        return [parcel.kind, parcel.digest, self._sent[parcel.digest]]

    def avoid(self, node: str, blame: Blame) -> None:
        """Sends nothing to a node for a while; one that was only blamed for a loss is used where there is no other."""
        self._suspects[node] = time.monotonic() + SUSPECT_SECONDS, blame
        self.node_lost.set()
        self.node_lost = asyncio.Event()

    async def end(self, actor: Any) -> None:
        """Ends an actor that has nothing to do."""
        with suppress(Lost, ExecutorError):
            await self.ask(actor.leave, seconds=_LEAVE_SECONDS)
        await asyncio.to_thread(self.kill, actor)

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()

    def kill(self, actor: Any) -> None:
        """Ends an actor, and with it the training whose parent it is."""
        with suppress(Exception):  # it is gone already
            self._ray.kill(actor)

    def _avoided(self, asked: dict[str, float]) -> Sequence[str]:
        """The nodes to avoid, where another can hold what is asked for."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        able = [node["NodeID"] for node in nodes if _holds(node["Resources"], asked)]
        words = ", ".join(_words(name, value) for name, value in asked.items() if value)
        if not able:
            largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
            raise ExecutorError(
                f"No node of the Ray cluster at {self.cluster.address} can hold a training, which asks for {words}; "
                f"of its {len(nodes)} nodes the largest has {largest:g} CPU: add a node, or lower threads, ray_gpus "
                "or trial_memory_mb."
            )
        for blames in (("node", "silent"), ("silent",)):
            avoided = [node for node in able if self._blame(node) in blames]
            if len(avoided) < len(able):
                return avoided
        raise ExecutorError(
            f"No node of the Ray cluster at {self.cluster.address} that can hold {words} answers; the same run_trial "
            "goes on once one does."
        )

    def _blame(self, node: str) -> Blame:
        until, blame = self._suspects.get(node, (0.0, ""))
        return blame if until > time.monotonic() else ""


def gone(address: str, why: str) -> str:
    """What is said of a cluster that is not there any more."""
    return f"The Ray cluster at {address} is gone ({why}): start it again, then the same run_trial goes on."


def _words(name: str, value: float) -> str:
    return f"{value / 2**20:g} MB of memory" if name == "memory" else f"{value:g} {name}"


def _holds(resources: dict[str, float], asked: dict[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= value for name, value in asked.items())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__


def _on_node(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"A node of the Ray cluster has no {error.name}: install there what virtualmle requires, then try again."
    return f"A node of the Ray cluster cannot run a training: {type(error).__name__}: {_line(error)}."
