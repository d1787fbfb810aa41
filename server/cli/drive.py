"""The command `virtualmle drive`."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from memory.records import EarlyStop
from server.cli.replay_home import home_for
from server.drive.ablation import MemoryMode
from server.drive.plan import (
    TRIALS,
    WITHHOLD,
    Engineer,
    ModelPlan,
    Plan,
    PlanError,
    Provider,
    Resume,
    fixed_fields,
    limits_of,
    provider_of,
)
from server.settings import load_settings
from server.study.requests import StudyRequest
from trainers.contract.metrics import Metric
from trainers.contract.presets import Preset
from trainers.contract.specs import SPECS
from trainers.contract.wire import FilterSeen
from trainers.external import registry

if TYPE_CHECKING:
    from mcp import Client

Parsed = TypeVar("Parsed")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _seconds(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a number of seconds above 0.")
    return value


_KEPT = (
    "dataset", "backbone", "metric", "budget_seconds", "trial_seconds", "gpu_seconds", "seed", "preset", "fix",
    "filter_seen", "early_stop", "guardrail", "memory", "withhold", "min_gain", "confirm_seeds", "allow_small",
)  # fmt: skip
"""Parameters that belong to the study, so that --resume cannot change them."""


@app.command()
def drive(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Option(help="An imported dataset, or demo, which is generated.")] = "demo",
    backbone: Annotated[str, typer.Option(help="sasrec, hstu, or a registered trainer.")] = "sasrec",
    policy: Annotated[Engineer, typer.Option(help="The search policy, or llm for a language model.")] = "playbook",
    metric: Annotated[Metric, typer.Option(help="What is tuned for, on validation.")] = "ndcg@10",
    trials: Annotated[
        int, typer.Option(min=1, help="Configurations to try; further seeds of one do not count.")
    ] = TRIALS,
    budget_seconds: Annotated[
        float | None, typer.Option(callback=_seconds, help="Wall-clock limit of the study.")
    ] = None,
    trial_seconds: Annotated[
        float | None, typer.Option(callback=_seconds, help="Wall-clock limit of one training.")
    ] = None,
    gpu_seconds: Annotated[
        float | None,
        typer.Option(callback=_seconds, help="Limit on the seconds that all trainings together hold slots."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    preset: Annotated[Preset, typer.Option(help="The default configuration.")] = "strong",
    fix: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Fix a field to a value; repeatable.")
    ] = None,
    filter_seen: Annotated[
        FilterSeen, typer.Option(help="Leave items of a user's history out of the ranking.")
    ] = "auto",
    early_stop: Annotated[EarlyStop, typer.Option(help="Stop hopeless trainings, or train each to its end.")] = "auto",
    guardrail: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME>=VALUE", help="A limit for the chosen configuration, such as 'coverage@10>=0.2'; repeatable."
        ),
    ] = None,
    memory: Annotated[
        MemoryMode,
        typer.Option(
            help="What the policy knows about earlier studies. frozen, permuted and flipped are for comparison."
        ),
    ] = "on",
    reflection: Annotated[bool, typer.Option(help="Write a note on what each trial taught.")] = True,
    min_gain: Annotated[
        float | None,
        typer.Option(
            min=1e-6, max=1, help="Smallest gain that matters: 0.02 is 2 %. Default: the larger of 2 % and two sigmas."
        ),
    ] = None,
    confirm_seeds: Annotated[
        int | None,
        typer.Option(
            min=0, max=10, help="Fresh seeds of choice and default at the end. Default: 2 where the budget has room."
        ),
    ] = None,
    allow_small: Annotated[
        bool, typer.Option("--allow-small", help="Tune although fewer than 30 users are measured.")
    ] = False,
    withhold: Annotated[
        float, typer.Option(min=0, max=0.9, help="Probability that a heuristic is withheld, to measure its worth.")
    ] = WITHHOLD,
    url: Annotated[str | None, typer.Option(metavar="U", help="Drive the server at this URL.")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="F", help="With --url: file of the bearer token.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report. Default: HOME/reports/STUDY_ID.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: VIRTUALMLE_HOME, else the user-data folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    model: Annotated[str | None, typer.Option(help="llm: the model's name.")] = None,
    provider: Annotated[
        Provider | None, typer.Option(help="llm: anthropic, or openai for any compatible server.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(metavar="U", help="llm: URL of your own endpoint.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="F", help="llm: file of the API key. Default: the environment.")
    ] = None,
    max_turns: Annotated[int, typer.Option(min=1, help="llm: limit on answers of the model.")] = 60,
    max_tokens: Annotated[int, typer.Option(min=1, help="llm: limit on tokens, read and written.")] = 400_000,
    max_context: Annotated[
        int, typer.Option(min=1, metavar="N", help="llm: tokens of one request beyond which the dialogue begins anew.")
    ] = 60_000,
    max_cost: Annotated[float | None, typer.Option(min=0, help="llm: limit in US dollars.")] = None,
    prices: Annotated[Path | None, typer.Option(metavar="F", help="llm: YAML file of model prices.")] = None,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Answer trainings from the recorded tables in DIR, in a home of their own."),
    ] = None,
    replay_transcript: Annotated[
        Path | None, typer.Option(metavar="F", help="llm: replay this transcript.jsonl instead of calling a model.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="llm: show datasets and fields under other names, for comparison.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="llm: print the first prompt and its size in tokens; train nothing, call no model."
        ),
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, help="Trainings at a time, up to the server's slots.")] = 1,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY", help="Go on with an open study, with the policy and the options that it was started with."
        ),
    ] = None,
) -> None:
    """Tune a backbone on a dataset unattended, and print the path of the report."""
    resumed = None if resume is None else _resume(resume, ctx)
    tables, transcript = _replays(replay, replay_transcript)
    if tables is not None and url is not None:
        raise typer.BadParameter("--replay DIR opens a home on this machine: leave --url out.")
    engineer = _model(policy, model, provider, base_url, key_file, max_turns, max_tokens, transcript, dry_run)
    if engineer is not None:
        engineer = _priced(engineer, max_cost, prices)
        engineer = replace(engineer, max_context=max_context, anonymous=anonymous, dry_run=dry_run)
    elif anonymous or dry_run:
        raise typer.BadParameter("--anonymous and --dry-run belong to --policy llm.")
    if policy == "llm" and memory not in ("on", "off"):
        raise typer.BadParameter("A model reads memory, or --memory off; placebos are for the policies without one.")
    if token_file is not None and url is None:
        raise typer.BadParameter("--token-file belongs to --url.")
    settings = load_settings(home) if url is not None else home_for(home, tables)
    if url is None and resumed is None:
        _check_backbone(backbone, settings.trainers_dir)
    request = StudyRequest(
        dataset=dataset, backbone=backbone, metric=metric, policy=policy, max_trials=trials, seed=seed, preset=preset,
        budget_seconds=budget_seconds, trial_seconds=trial_seconds, gpu_seconds=gpu_seconds, filter_seen=filter_seen,
        early_stop=early_stop, withhold=withhold, min_gain=min_gain, confirm_seeds=confirm_seeds,
        allow_small=allow_small,
        space=_parsed(fixed_fields, fix) or None,
        guardrails=_parsed(limits_of, guardrail) or None,
    )  # fmt: skip
    plan = Plan(
        request, engineer, url, token_file, home, memory, reflection, parallel=parallel, resume=resumed, replay=tables
    )
    from server.drive.run import run_drive

    def connect() -> AbstractAsyncContextManager[Client]:
        if url is not None:
            from server.drive.remote import connect_url

            return connect_url(url, token_file)
        from server.client.home import connect as connect_home

        return connect_home(settings.home)

    raise typer.Exit(run_drive(plan, connect, settings.reports_dir, report, as_json))


def _replays(given: Path | None, transcript: Path | None) -> tuple[Path | None, Path | None]:
    """The folder of tables and the transcript to replay. --replay was the option of a transcript, and may still be."""
    if given is None or given.is_dir():
        return given, transcript
    if not given.exists():
        raise PlanError(
            f"--replay {given}: there is no such folder. It names a folder of recorded tables; a transcript is "
            "--replay-transcript F."
        )
    if transcript is not None:
        raise typer.BadParameter(f"--replay {given} is a file, not a folder of recorded tables.")
    typer.echo("--replay F is now --replay-transcript F; --replay names a folder of recorded tables.", err=True)
    return None, given


def _resume(study_id: str, ctx: typer.Context) -> Resume:
    """What the command line changes in a resumed study. Raises PlanError for an option that belongs to the study."""
    given = {name: value for name, value in ctx.params.items() if _is_given(ctx, name)}
    for name in _KEPT:
        if name in given:
            option = "--" + name.replace("_", "-")
            raise PlanError(
                f"{option} cannot be changed on a resumed study; {study_id!r} keeps what it was started with. "
                f"Leave {option} out, or start another study without --resume."
            )
    return Resume(study_id, given.get("policy"), given.get("reflection"), given.get("parallel"), given.get("trials"))


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _priced(model: ModelPlan, max_cost: float | None, prices: Path | None) -> ModelPlan:
    """The model with its budget in dollars, which needs a price."""
    from server.drive.llm.prices import price_of

    price = _parsed(lambda _: price_of(model.model, prices), None)
    if max_cost is not None and price is None:
        raise typer.BadParameter(f"--max-cost needs the price of {model.model!r}: give --prices F.")
    return replace(model, max_cost=max_cost, prices=prices)


def _check_backbone(name: str, trainers_dir: Path) -> None:
    if name not in SPECS:
        try:
            registry.find(trainers_dir, name)
        except registry.TrainerError as error:
            raise typer.BadParameter(str(error)) from None


def _parsed(read: Callable[[list[str]], Parsed], settings: list[str] | None) -> Parsed:
    try:
        return read(settings or [])
    except PlanError as error:
        raise typer.BadParameter(str(error)) from None


def _model(
    policy: Engineer, model: str | None, provider: Provider | None, base_url: str | None, key_file: Path | None,
    max_turns: int, max_tokens: int, transcript: Path | None, dry_run: bool,
) -> ModelPlan | None:  # fmt: skip
    """The model of `--policy llm`; None for any other policy."""
    if policy != "llm":
        if model or provider or base_url or key_file or transcript:
            raise typer.BadParameter(
                "--model, --provider, --base-url, --key-file and --replay-transcript belong to --policy llm."
            )
        return None
    if transcript is not None:
        return ModelPlan(model or "replay", "replay", max_turns=max_turns, max_tokens=max_tokens, replay=transcript)
    if model is None and dry_run:
        model = "none"
    if model is None:
        raise typer.BadParameter("--policy llm needs --model, for example --model claude-sonnet-4-5.")
    return ModelPlan(model, provider or provider_of(model, base_url), base_url, key_file, max_turns, max_tokens)
