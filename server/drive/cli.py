"""The command `virtualmle drive`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from memory.records import EarlyStop
from server.drive.ablation import MemoryMode
from server.drive.plan import (
    WITHHOLD,
    FilterSeen,
    ModelPlan,
    Plan,
    PlanError,
    PolicyName,
    Preset,
    Provider,
    fixed_fields,
    limits_of,
    provider_of,
)
from server.settings import load_settings
from trainers import registry
from trainers.spec import SPECS

if TYPE_CHECKING:
    from mcp import Client

Told = TypeVar("Told")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def drive(
    dataset: Annotated[str, typer.Option(help="A dataset that was imported; demo is generated.")] = "demo",
    backbone: Annotated[str, typer.Option(help="sasrec, hstu, or a trainer that was added.")] = "sasrec",
    policy: Annotated[PolicyName, typer.Option(help="Who plays the engineer.")] = "playbook",
    trials: Annotated[int, typer.Option(min=1, help="Configurations; other seeds of one do not count.")] = 8,
    budget_seconds: Annotated[float | None, typer.Option(min=1, help="Wall clock of the study.")] = None,
    trial_seconds: Annotated[float | None, typer.Option(min=1, help="Wall clock of one training.")] = None,
    gpu_seconds: Annotated[
        float | None, typer.Option(min=1, help="Seconds that the trainings may hold slots, all together.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    preset: Annotated[Preset, typer.Option(help="The default configuration.")] = "strong",
    fix: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Keep a field at a value; repeatable.")
    ] = None,
    filter_seen: Annotated[FilterSeen, typer.Option(help="Leave items of the history out of the ranking.")] = "auto",
    early_stop: Annotated[EarlyStop, typer.Option(help="Stop hopeless trainings, or train each to its end.")] = "auto",
    guardrail: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME>=VALUE", help="What else must hold, as 'coverage@10>=0.2'; repeatable."),
    ] = None,
    memory: Annotated[
        MemoryMode, typer.Option(help="What the policy knows of earlier studies; placebos are for comparison.")
    ] = "on",
    reflection: Annotated[bool, typer.Option(help="Write down what each trial taught.")] = True,
    withhold: Annotated[
        float, typer.Option(min=0, max=0.9, help="Chance that a heuristic is kept back, to measure what it is worth.")
    ] = WITHHOLD,
    url: Annotated[str | None, typer.Option(metavar="U", help="Drive the server at this URL.")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="F", help="Its bearer token.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: HOME/reports/STUDY_ID.")] = None,
    home: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: VIRTUALMLE_HOME, else user data.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    model: Annotated[str | None, typer.Option(help="llm: the model's name.")] = None,
    provider: Annotated[Provider | None, typer.Option(help="llm: anthropic, or anything like OpenAI.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="U", help="llm: an endpoint of your own.")] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="F", help="llm: the key; else from the environment.")] = None,
    max_turns: Annotated[int, typer.Option(min=1, help="llm: answers of the model.")] = 60,
    max_tokens: Annotated[int, typer.Option(min=1, help="llm: tokens read and written.")] = 400_000,
    max_cost: Annotated[float | None, typer.Option(min=0, help="llm: US dollars.")] = None,
    prices: Annotated[Path | None, typer.Option(metavar="F", help="llm: YAML of models' prices.")] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="F", help="llm: a transcript.jsonl that says what was said then.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="llm: other names for datasets and fields, for comparison.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="llm: print the first prompt and its tokens; train and ask nothing.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, help="Trainings at a time, as far as the server has slots.")] = 1,
    resume: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Go on with a study that is open; its own options count.")
    ] = None,
) -> None:
    """Tune a dataset: the reference engineer. Ends with the path of its report."""
    engineer = _model(policy, model, provider, base_url, key_file, max_turns, max_tokens, replay, dry_run)
    if engineer is not None:
        engineer = replace(_priced(engineer, max_cost, prices), anonymous=anonymous, dry_run=dry_run)
    elif anonymous or dry_run:
        raise typer.BadParameter("--anonymous and --dry-run belong to --policy llm.")
    if policy == "llm" and memory not in ("on", "off"):
        raise typer.BadParameter("A model reads memory, or --memory off; placebos are for the policies without one.")
    if token_file is not None and url is None:
        raise typer.BadParameter("--token-file belongs to --url.")
    if url is None:
        _check_backbone(backbone, load_settings(home).trainers)
    plan = Plan(
        dataset, backbone, policy, trials, budget_seconds, trial_seconds, seed, preset, _told(fixed_fields, fix),
        filter_seen, engineer, url, early_stop, _told(limits_of, guardrail), memory, reflection,
        withhold, resume=resume, parallel=parallel, gpu_seconds=gpu_seconds,
    )  # fmt: skip
    from server.drive.run import run_drive

    def connect() -> AbstractAsyncContextManager[Client]:
        if url is not None:
            from server.drive.remote import connect_url

            return connect_url(url, token_file)
        from server.home import connect as connect_home

        return connect_home(home)

    raise typer.Exit(run_drive(plan, connect, load_settings(home).reports, report, as_json))


def _priced(model: ModelPlan, max_cost: float | None, prices: Path | None) -> ModelPlan:
    """With its budget in dollars, which needs a price."""
    from server.drive.prices import price_of

    price = _told(lambda _: price_of(model.model, prices), None)
    if max_cost is not None and price is None:
        raise typer.BadParameter(f"--max-cost needs the price of {model.model!r}: give --prices F.")
    return replace(model, max_cost=max_cost, prices=prices)


def _check_backbone(name: str, trainers_dir: Path) -> None:
    if name not in SPECS:
        try:
            registry.find(trainers_dir, name)
        except registry.TrainerError as error:
            raise typer.BadParameter(str(error)) from None


def _told(read: Callable[[list[str]], Told], settings: list[str] | None) -> Told:
    try:
        return read(settings or [])
    except PlanError as error:
        raise typer.BadParameter(str(error)) from None


def _model(
    policy: PolicyName, model: str | None, provider: Provider | None, base_url: str | None, key_file: Path | None,
    max_turns: int, max_tokens: int, replay: Path | None, dry_run: bool,
) -> ModelPlan | None:  # fmt: skip
    """The model of `--policy llm`."""
    if policy != "llm":
        if model or provider or base_url or key_file or replay:
            raise typer.BadParameter("--model, --provider, --base-url, --key-file and --replay belong to --policy llm.")
        return None
    if replay is not None:
        return ModelPlan(model or "replay", "replay", max_turns=max_turns, max_tokens=max_tokens, replay=replay)
    if model is None and dry_run:
        model = "none"
    if model is None:
        raise typer.BadParameter("--policy llm needs --model, for example --model claude-sonnet-4-5.")
    return ModelPlan(model, provider or provider_of(model, base_url), base_url, key_file, max_turns, max_tokens)
