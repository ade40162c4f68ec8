"""A run: builds the parts that a config names, hands them to the loop, and leaves a folder that says what happened.

The folder holds `config.yaml`, `versions.json`, `metrics.jsonl`, `answers.sqlite`, `checkpoint.pt`, `policy.pt`,
`best.pt`, `result.json`, `curve.png` and `policy.mp4`; `bc/` holds the comparison.
"""

import hashlib
import inspect
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import get_class, get_object, instantiate

from pbrl import collect, evaluate, parallel, report
from pbrl import frames as filmed
from pbrl.engine import pick_device, wants_compile
from pbrl.episodes import versions
from pbrl.feedback.store import Store
from pbrl.likelihoods import save_policy
from pbrl.log import Log
from pbrl.loop import Training
from pbrl.objectives import RELATIVE
from pbrl.plan import Query, Schedule
from pbrl.query import needs_reward
from pbrl.reference import Reference, check_settings
from pbrl.rollout import Players, auto_workers
from pbrl.table import NORMALIZE, Table
from pbrl.types import Episode, PairsAndSteps, PreferenceBatch, Spec, UserError

Config = dict[str, Any]
PARTS = ("env", "feedback", "reward", "algo", "objective", "reward_objective", "policy", "baseline")
OWN = {"data", "query", "reference", "seed", "data_seed", "bf16", "reward_scale"}  # settings that are no part's
FREE = {
    "device", "threads", "workers", "compile", "only", "compare", "baseline", "video", "logger", "run", "store",
    "data_dir", "checkpoint_every",
}  # fmt: skip  # what may change when a run goes on; the rest makes it another run
GIVEN = {"self", "spec", "policy", "objective", "scores", "label", "worth"}  # what parts are handed besides a config


def train(config: Config) -> dict[str, Any]:
    """Runs a config to its end, or on from where it was; returns what `result.json` holds. Raises UserError.

    Of several processes (see pbrl/parallel.py) the first alone has a store, an environment and the run folder.
    """
    ask, schedule, sizes = check(config)
    device = parallel.begin(pick_device(config["device"]))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _train(config, ask, schedule, sizes, device, Path(scratch))
    finally:
        parallel.end()


def _train(
    config: Config, ask: Query | None, schedule: Schedule, sizes: tuple[int, int], device: torch.device, scratch: Path
) -> dict[str, Any]:
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    workers = auto_workers(config["workers"])
    source = {"folder": Path(config["data_dir"]), "seed": config["data_seed"], "workers": workers}
    episodes, dataset = parallel.after_first(lambda: collect.dataset(config["env"], config["data"], **source))
    data = evaluate.summarize(episodes)
    if config["only"] == "data":
        print(f"data    {len(episodes)} episodes, {data}")
        return {}
    check_fit(config, episodes[0], sizes)
    beside = {"folder": Path(config["data_dir"]), "workers": workers}
    film = partial(filmed.frames, config["env"], episodes, dataset, **beside)
    table = Table(episodes, device, parallel.after_first(film))
    del episodes, film
    spec = table.spec()
    folder = run_folder(config) if parallel.first() else scratch
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder} ({error}): choose another with run=…") from error
    shared: Config = {
        "table": table,
        "dataset": dataset,
        "seed": config["seed"],
        "compile": config["compile"],
        "bf16": config["bf16"],
        "settings": {k: v for k, v in config.items() if k not in FREE},
    }
    provenance(folder, config, dataset)
    print(f"run     {folder}\ndata    {len(table.steps)} episodes, {len(table)} steps, {data}")

    players = Players(config["env"], workers) if parallel.first() else None
    experts = None  # who play without images where policies have them: a scripted expert does not look
    if players is not None and config["env"].get("images"):
        experts = Players(filmed.blind(config["env"]), workers)
    log = Log(folder, **config["logger"], config=config)
    page = None
    try:
        table.relabel_true(config["reward_scale"])
        clone = None
        if config["compare"] and config["only"] is None:
            clone = compare(config, spec, folder / "bc", schedule, players, shared)
        torch.manual_seed(config["seed"])
        teacher, reward, store = None, reward_model(config, spec), None
        if ask is not None:
            teacher = build(config["feedback"])
            if players is not None:
                store = Store(config["store"] or f"sqlite:///{folder / 'answers.sqlite'}")
                playing = players if config["reference"]["policy"] else experts or players
                introduce(teacher, config, table, dataset, playing)
        algo = learner(config["algo"], config, spec, device)
        if reward is not None:
            reward.to(device)
        training = Training(
            folder=folder, algo=algo, reward=reward, teacher=teacher, store=store, ask=ask, schedule=schedule,
            log=log, players=players, **shared,
        )  # fmt: skip
        if hasattr(teacher, "open_page") and parallel.first():
            page = teacher.open_page(folder)  # type: ignore[union-attr]
        if config["only"] == "answers":
            training.ask_first()
            return {}
        summary = training.run()
        if players is None:
            return {}
        save_policy(algo.policy, folder / "policy.pt")
        result = report.write(folder, config, data, clone, summary, training.counts)
        if config["video"]:
            report.video(folder, config["env"], players, algo.policy, schedule.eval_seed)
        return result
    finally:
        if page is not None:
            page.terminate()
        for playing in filter(None, (players, experts)):
            playing.close()
        log.close()


def introduce(teacher: Any, config: Config, table: Table, dataset: str, players: Players) -> None:
    """Gives a scripted teacher its name in the store, where other settings make another teacher, and what it needs."""
    if hasattr(teacher, "answer"):
        teacher.author = f"scripted-{digest(config['feedback'], config['reference'])}"
    if teacher.needs_value:
        teacher.value = Reference(
            table, players, dataset=dataset, folder=Path(config["data_dir"]),
            discount=config["feedback"]["discount"], **config["reference"],
        ).values  # fmt: skip


def check(config: Config) -> tuple[Query | None, Schedule, tuple[int, int]]:
    """Finds what cannot work before anything is made.

    Returns what is asked (None: nothing), the schedule, and the sizes of the environment's observations and actions.
    """
    check_names("the command line", config, {*PARTS, *FREE, *OWN, *inspect.signature(Schedule).parameters})
    check_names("query", config["query"], set(inspect.signature(Query).parameters))
    check_names("reference", config["reference"], set(inspect.signature(Reference).parameters))
    for part in PARTS:
        check_keys(part, config[part])
    schedule = Schedule(**{k: config[k] for k in inspect.signature(Schedule).parameters})
    eats = get_class(config["algo"]["_target_"]).batch
    eats_answers = eats in (PreferenceBatch, PairsAndSteps)
    has_reward, has_teacher = bool(config["reward"]["_target_"]), bool(config["feedback"]["_target_"])
    name = config["algo"]["_target_"].rsplit(".", 1)[1]
    if config["reward_scale"] not in NORMALIZE:
        raise UserError(f"reward_scale={config['reward_scale']}: it is one of {', '.join(NORMALIZE)}")
    if config["reward"].get("normalize", "auto") not in ("auto", *NORMALIZE):
        raise UserError(f"reward.normalize={config['reward']['normalize']}: it is one of auto, {', '.join(NORMALIZE)}")
    wants_compile(config["compile"], 0)
    if config["only"] not in (None, "data", "answers"):
        raise UserError(f"only={config['only']}: it is null, data or answers")
    if config["only"] == "answers" and not (eats_answers or has_reward):
        raise UserError(f"only=answers: {name} on the true reward asks nothing; choose algo=cpl, or reward=ensemble")
    if eats is PairsAndSteps and has_reward:
        raise UserError(f"{name} is its own reward model: drop reward=…, or choose algo=iql")
    if (eats_answers or has_reward) and not has_teacher and config["only"] != "data":
        raise UserError(
            f"{name if eats_answers else 'a reward model'} learns from answers, and feedback=none gives none: "
            "choose feedback=perfect or another teacher"
        )
    if needs_reward(config["query"]["strategy"]) and not has_reward:
        raise UserError(
            f"query.strategy={config['query']['strategy']} asks a reward ensemble: choose reward=ensemble, "
            "or query.strategy=uniform"
        )
    pick_device(config["device"])
    ask = Query(**config["query"])
    env = build(config["env"])
    env.close()
    tiny = Spec(1, 1, (0.0,), (1.0,), 1, filmed.shape(config["env"]))  # the parts find what is wrong with their numbers
    check_objectives(
        config, ask, learner(config["algo"], config, tiny, torch.device("cpu")), reward_model(config, tiny)
    )
    if (eats_answers or has_reward) and config["only"] != "data":
        check_teacher(config, ask, env)
    if config["env"].get("images"):
        check_looks(name, config)
    space = env.observation_space["state"] if config["env"].get("images") else env.observation_space
    sizes = space.shape[0], env.action_space.shape[0]
    return (ask if eats_answers or has_reward else None), schedule, sizes


def check_fit(config: Config, episode: Episode, sizes: tuple[int, int]) -> None:
    """Raises UserError where the data are of another world than the environment's, or hold nothing to learn from."""
    found = episode.obs.shape[1], episode.action.shape[1]
    if found == sizes:
        return
    advice = "choose another data=… or env=…"
    if not found[0]:
        advice = "put name.npz with obs and action beside each name.mp4 (see configs/data/recordings.yaml)"
    raise UserError(
        f"data={config['data']['name']} has {found[0]} numbers per observation and {found[1]} per action, "
        f"and the environment {sizes[0]} and {sizes[1]}: {advice}"
    )


def check_looks(name: str, config: Config) -> None:
    """Raises UserError where somebody would have to look at images who cannot."""
    if config["reward"]["_target_"]:
        raise UserError("a reward model reads states and does not look at images: choose algo=cpl, or drop env.images")
    if not getattr(get_class(config["algo"]["_target_"]), "images", False):
        raise UserError(f"{name} reads states and does not look at images: choose algo=bc or cpl, or drop env.images")


def check_teacher(config: Config, ask: Query, env: Any) -> None:
    """Raises UserError where the teacher cannot answer what is asked, or would not do so as its settings say."""
    teacher = build(config["feedback"])
    if hasattr(teacher, "recall"):
        if not config["store"]:
            raise UserError("feedback=kept takes answers from a store: name it with store=sqlite:///answers.sqlite")
    elif hasattr(teacher, "answer") and ask.kind == "spans":
        raise UserError("scripted teachers mark no spans: feedback=human, or feedback=kept")
    elif (
        hasattr(teacher, "answer")
        and ask.kind == "rating"
        and not (teacher.beta == math.inf and teacher.mistake == teacher.equal == 0)
    ):
        raise UserError(
            "feedback.beta, feedback.mistake and feedback.equal are about comparisons: choose query.kind=pair, or a "
            "teacher that is always right"
        )
    if teacher.needs_value:
        check_settings(config["reference"])
        if not hasattr(env, "expert") and not config["reference"]["policy"]:
            raise UserError(
                "feedback=regret needs a scripted expert, which this environment has not: choose feedback=perfect, or "
                "reference.policy=<run folder>"
            )
    if ask.strategy.endswith("disagreement") and config["reward"].get("members", 1) < 2:
        raise UserError(
            f"query.strategy={ask.strategy} needs an ensemble: reward=ensemble, with reward.members=2 or more"
        )


def check_objectives(config: Config, ask: Query, algo: Any, reward: Any) -> None:
    """Raises UserError where an objective has nobody to train, or nothing of its kind to learn from."""
    nobody = {
        "objective": f"{type(algo).__name__} has no objective to choose: drop objective=…, or choose algo=cpl; a "
        "reward model's is objective@reward_objective=…",
        "reward_objective": "there is no reward model: drop objective@reward_objective=…, or add reward=ensemble",
    }
    for part, owner, default in (("objective", algo, "logistic"), ("reward_objective", reward, "bradley_terry")):
        name = config[part]["_target_"].rsplit(".", 1)[1]
        if not hasattr(owner, "objective"):
            if name != default:
                raise UserError(nobody[part])
            continue
        k = owner.segments
        owner.objective(torch.zeros(1, k), torch.zeros(1, k) if k > 2 else torch.zeros(1))
        if k > 2 and ask.kind == "pair" and (owner is reward or reward is None):
            raise UserError(f"{name} learns from lists: query.kind=ranking or rating")
    relative = get_object(config["objective"]["_target_"]) in RELATIVE
    if relative and hasattr(algo, "objective") and not config["algo"].get("reference"):
        raise UserError(f"{config['objective']['_target_']} reads scores relative to a clone: add algo.reference=true")


def check_names(what: str, given: Config, known: set[str]) -> None:
    """Raises UserError where a name means nothing."""
    unknown = set(given) - known
    if unknown:
        raise UserError(f"{what} has no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}")


def check_keys(part: str, config: Config) -> None:
    """Raises UserError when a part's config and its signature differ."""
    if not config["_target_"]:
        return
    parameters = {k: p for k, p in signature(config).items() if k not in GIVEN}
    unknown = set(config) - set(parameters) - {"_target_", "_partial_"}
    missing = {k for k, p in parameters.items() if p.default is p.empty} - set(config)
    if unknown or missing:
        words = [f"has no {', '.join(sorted(unknown))}"] if unknown else []
        words += [f"needs {', '.join(sorted(missing))}"] if missing else []
        raise UserError(f"{part}: {config['_target_']} {' and '.join(words)}; it takes {', '.join(sorted(parameters))}")


def build(config: Config, *given: Any, **named: Any) -> Any:
    """The part that a config names, or None where it names none."""
    if not config["_target_"]:
        return None
    try:
        return instantiate(config, *given, **named, _convert_="all")
    except InstantiationException as error:  # a part's own sentence, without Hydra's around it
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def signature(config: Config) -> Mapping[str, inspect.Parameter]:
    """The parameters of what a config names; a class that hands on keywords takes its parent's too."""
    target = get_object(config["_target_"])
    own = dict(inspect.signature(target).parameters)
    handed_on = [own.pop(name) for name, p in list(own.items()) if p.kind is p.VAR_KEYWORD]
    return {**inspect.signature(target.__base__).parameters, **own} if handed_on else own


def learner(algo: Config, config: Config, spec: Spec, device: torch.device) -> Any:
    """An algorithm with the config's policy and objective where it takes them; initialised by the seed alone."""
    torch.manual_seed(config["seed"])
    takes = signature(algo)
    given = {"policy": build(config["policy"], spec)} if "policy" in takes else {}
    if "objective" in takes:
        given["objective"] = build(config["objective"])
    return build(algo, spec, **given).to(device)


def reward_model(config: Config, spec: Spec) -> Any:
    """The config's reward model with its objective, or None."""
    return build(config["reward"], spec, build(config["reward_objective"]))


def compare(
    config: Config, spec: Spec, folder: Path, schedule: Schedule, players: Players | None, shared: Config
) -> dict[str, Any]:
    """Clones the data with the same policy class and number of updates; returns that run's summary."""
    folder.mkdir(exist_ok=True)
    algo = learner(config["baseline"], config, spec, shared["table"].device)
    log = Log(folder)
    try:
        return Training(
            folder=folder, algo=algo, schedule=schedule, log=log, players=players, name="bc", **shared
        ).run()
    finally:
        log.close()


def run_folder(config: Config) -> Path:
    """Where the run lives: named by the user, or after its settings."""
    if config["run"]:
        return Path(config["run"])
    target = config["env"]["_target_"].split(".")[1]
    algo = config["algo"]["_target_"].split(".")[-2]
    model = config["reward"]["_target_"]
    name = "-".join(filter(None, [algo, model and model.split(".")[-2], f"seed{config['seed']}", digest(config)]))
    return Path("runs") / f"{target}-{config['env'].get('task', '')}" / name


def digest(*parts: Config) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def provenance(folder: Path, config: Config, dataset: str) -> None:
    """Writes what the run is made of, once: going on with it changes nothing of that, and is noted beside it."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except OSError:
        git = ""
    made_with = {"git": git, "data": dataset, **versions()}
    first = folder / "versions.json"
    if not first.exists() or not (folder / "checkpoint.pt").exists():
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        first.write_text(json.dumps(made_with, indent=2))
    elif (known := json.loads(first.read_text())) | made_with != known:
        known["continued_with"] = [*known.get("continued_with", []), made_with]
        first.write_text(json.dumps(known, indent=2))
