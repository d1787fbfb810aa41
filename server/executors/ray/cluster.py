"""A Ray cluster as a driver sees it: its capacity, the actors of one home, and what is sent to its nodes."""

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

from server.executors.base import ExecutorError, Slot
from server.executors.ray import node as node_code
from server.executors.ray.files import Parcel

SUSPECT_SECONDS = 120.0
"""How long to avoid a node that has lost a training; by then Ray has marked it dead, or it is back."""
_LEAVE_SECONDS = 10.0
_KILLED = "killed by `ray.kill`"
_CAUSE = re.compile(r"The actor (?:is dead|died) because (.*?)[.:] ")


class Cluster(BaseModel):
    """Where trainings go and what each of them requests.

    `label` marks the home, so that its actors can be found. `gpus` of a training is a fraction or a whole number.
    `command`: tests pass another than the trainers'. `folder` is a node's folder for code, datasets and work; None is
    one in its temporary folder. A node that stays silent for `heartbeat_seconds` has lost its trainings.
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
        """Ray namespace of this home's actors."""
        return f"virtualmle-{self.label}"

    def resources(self, slot: Slot) -> dict[str, float]:
        """Resources that a node must have for a training, by Ray's names."""
        memory = {} if slot.memory_mb is None else {"memory": float(slot.memory_mb << 20)}
        return {"CPU": float(slot.threads), "GPU": self.gpus} | memory


Blame = Literal["", "node", "silent"]


class Lost(Exception):
    """A training is gone, and another node may resume it. `blame` says whether its node seems to be the cause."""

    def __init__(self, reason: str, blame: Blame = "") -> None:
        super().__init__(reason)
        self.blame: Blame = blame


class Gone(ExecutorError):
    """The cluster does not answer, so this driver is of no further use."""


class Connection:
    """The connection to a cluster for the life of this process. Raises ExecutorError where it cannot be made."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._suspects: dict[str, tuple[float, Blame]] = {}
        self.node_lost = asyncio.Event()
        """Set each time a node seems to be lost, and then replaced by a new event."""
        self._sent: dict[str, Any] = {}
        try:
            self._ray: Any = import_module("ray")
            self._ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", namespace="virtualmle")
        except ModuleNotFoundError as error:
            raise ExecutorError(f"executor='ray' needs {error.name}: pip install 'virtualmle[ray]'.") from None
        except Exception as error:  # Ray has no common class for what can be wrong with an address
            raise ExecutorError(
                f"The Ray cluster at {cluster.address} cannot be used: {_line(error)}: check ray_address, that Ray and "
                "Python are of the same version there, and RAY_AUTH_MODE and RAY_AUTH_TOKEN."
            ) from None
        for module in node_code.BY_VALUE:
            self._ray.cloudpickle.register_pickle_by_value(module)
        self._kind = self._ray.remote(node_code.Node)

    async def take_over(self) -> None:
        """Ends the trainings of an earlier owner of the home."""
        actors = await asyncio.to_thread(self._ray.util.list_named_actors, all_namespaces=True)
        names = [actor["name"] for actor in actors if actor["namespace"] == self.cluster.namespace]
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
        """Requests a new actor on a node that can hold it. Raises ExecutorError where there is no such node."""
        needed = self.cluster.resources(slot)
        options: dict[str, Any] = {
            "name": secrets.token_hex(6), "namespace": self.cluster.namespace, "num_cpus": needed["CPU"],
            "num_gpus": needed["GPU"], "max_restarts": 0, "max_task_retries": 0,
        }  # fmt: skip
        if "memory" in needed:
            options["memory"] = int(needed["memory"])
        try:
            if avoided := self._avoided(needed):
                options["label_selector"] = {"ray.io/node-id": f"!in({','.join(avoided)})"}
            return self._kind.options(**options).remote()
        except ExecutorError:
            raise
        except Exception as error:
            raise Gone(gone(self.cluster.address, _line(error))) from None

    async def ask(self, method: Any, *arguments: Any, seconds: float | None) -> Any:
        """Calls a method of an actor and returns its answer. Raises Lost, ExecutorError or Gone."""
        errors = self._ray.exceptions
        try:
            answer = asyncio.wrap_future(method.remote(*arguments).future())
        except Exception as error:  # Ray has no class of its own for a connection that is lost
            raise Gone(gone(self.cluster.address, _line(error))) from None
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(answer)  # Ray cannot cope with a cancelled future
        except errors.RayTaskError as error:  # our own code on the node raised it; it is of that error's class, too
            raise ExecutorError(_on_node(error.cause)) from None
        except TimeoutError:
            raise Lost(f"its node has not answered for {seconds:g} s", "silent") from None
        except errors.ActorUnavailableError:
            raise Lost("its node cannot be reached", "node") from None
        except errors.RayActorError as error:
            if _KILLED in str(error):
                raise ExecutorError("The training was ended by somebody; the same run_trial goes on.") from None
            cause = _CAUSE.search(_line(error))
            reason = cause[1] if cause else _line(error)
            raise Lost(reason, "node" if "node has died" in reason else "") from None
        except Exception as error:
            raise Lost(_line(error)) from None

    def reference(self, parcel: Parcel) -> list[Any]:
        """A parcel as nodes take it: kind, digest, and where to fetch its content, which goes to the cluster once."""
        if parcel.digest not in self._sent:
            try:
                self._sent[parcel.digest] = self._ray.put(parcel.content)
            except Exception as error:
                raise Gone(gone(self.cluster.address, _line(error))) from None
        return [parcel.kind, parcel.digest, self._sent[parcel.digest]]

    def avoid(self, node: str, blame: Blame) -> None:
        """Sends nothing to a node for a while. One blamed for a loss, but not silent, is used if there is no other."""
        self._suspects[node] = time.monotonic() + SUSPECT_SECONDS, blame
        self.node_lost.set()
        self.node_lost = asyncio.Event()

    async def end(self, actor: Any) -> None:
        """Ends an idle actor."""
        with suppress(Lost, ExecutorError):
            await self.ask(actor.leave, seconds=_LEAVE_SECONDS)
        await asyncio.to_thread(self.kill, actor)

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()

    def kill(self, actor: Any) -> None:
        """Kills an actor, and with it the training that it runs."""
        with suppress(Exception):  # the actor is gone already
            self._ray.kill(actor)

    def _avoided(self, needed: dict[str, float]) -> Sequence[str]:
        """Ids of nodes to avoid, where another can hold `needed`. Raises ExecutorError where there is none to use."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        able = [node["NodeID"] for node in nodes if _holds(node["Resources"], needed)]
        words = ", ".join(_in_words(name, value) for name, value in needed.items() if value)
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
    """The message for a cluster that is no longer there."""
    return f"The Ray cluster at {address} is gone ({why}): start it again, then the same run_trial goes on."


def _in_words(name: str, value: float) -> str:
    return f"{value / 2**20:g} MB of memory" if name == "memory" else f"{value:g} {name}"


def _holds(resources: dict[str, float], needed: dict[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= value for name, value in needed.items())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__


def _on_node(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"A node of the Ray cluster has no {error.name}: install there what virtualmle requires, then try again."
    return f"A node of the Ray cluster cannot run a training: {type(error).__name__}: {_line(error)}."
