"""Loads tasks by name from this machine: built-in tasks, tasks of the user's folder, and tasks of the harness."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn import check_dataset
from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

BUILTIN = "builtin"
_FOLDER = Path(__file__).parent / "builtin"
_SUPPLY = (
    "Give a folder with --task-folder that holds the data and a task of yours, TASK.yaml, with `dataset_path: json` "
    "and `dataset_kwargs: {data_files: {test: FILE.jsonl}}`; or put the dataset into the cache of `datasets` first. "
    "--tasks builtin needs no data."
)


def load_tasks(names: Sequence[str], include: Path | None) -> dict[str, Any]:
    """Returns the harness's tasks and groups in the format of its `evaluate`.

    names: names of tasks, groups and tags, with * and ? as wildcards; `builtin` names the tasks that come with
    patch-compile. include: a folder of the user's own tasks. Files that they name are relative to this folder, and a task
    in it takes precedence over other tasks of the same name.

    Raises PatchCompileError for an unknown name, and for a task whose data is not on this machine.
    """
    if include is not None and not include.is_dir():
        raise PatchCompileError(
            f"There is no folder {include}", fix="Give --task-folder a folder of task files."
        )
    manager = _manager(names, include)
    found = [task for name in names for task in _matches(manager, name)]
    loaded = [_load(manager, name, include) for name in dict.fromkeys(found)]
    tasks = {name: task for one in loaded for name, task in one["tasks"].items()}
    for name, task in tasks.items():
        _check_can_run(name, task)
    groups = {name: group for one in loaded for name, group in one["groups"].items()}
    return {
        "tasks": tasks,
        "groups": groups,
        "group_map": {name: g.child_names for name, g in groups.items()},
    }


def in_task_folder(include: Path | None) -> AbstractContextManager[None]:
    """Change to the folder of the user's tasks, or of the built-in tasks, while code of the harness runs.

    That code looks into the current folder: `evaluate.load("bleu")` runs bleu/bleu.py there, and a dataset may be a folder.
    """
    return chdir(include or _FOLDER)


@contextmanager
def _bounded_data() -> Iterator[None]:
    """Let the harness load no local file that takes more memory or time than its size lets expect."""
    import datasets

    load = datasets.load_dataset

    def bounded(path: str, name: str | None = None, **settings: Any) -> Any:
        places = {key: settings[key] for key in ("data_dir", "data_files") if settings.get(key) is not None}
        check_dataset(path, name, **places)
        return load(path, name, **settings)

    datasets.load_dataset = bounded
    try:
        yield
    finally:
        datasets.load_dataset = load


def _manager(names: Sequence[str], include: Path | None) -> TaskManager:
    """Returns the index of tasks. The harness's 15,000 tasks take seconds to read, so they are read only if a name needs
    them."""
    from lm_eval.tasks import TaskManager

    folders = [_FOLDER, *([include.resolve()] if include else [])]
    own = TaskManager(include_path=folders, include_defaults=False)
    if all(own.match_tasks([name]) for name in names) and not own.all_groups:
        return own
    return TaskManager(include_path=folders)


def _matches(manager: TaskManager, name: str) -> list[str]:
    matches: list[str] = sorted(manager.match_tasks([name]))
    if matches:
        return matches
    close = difflib.get_close_matches(name, manager.all_tasks, 3)
    raise PatchCompileError(
        f"There is no task {name!r}",
        f"Close to it are {', '.join(close)}." if close else "No task of the harness has a name like it.",
        f"Give {BUILTIN}, a task of lm-evaluation-harness, or one of your own with --task-folder.",
    )


def _load(manager: TaskManager, name: str, include: Path | None) -> dict[str, Any]:
    from datasets.exceptions import DatasetsError

    try:
        with in_task_folder(include), _bounded_data():
            loaded: dict[str, Any] = manager.load([name])
    except PatchCompileError:
        raise
    except (OSError, DatasetsError) as error:
        raise PatchCompileError(
            f"The data of task {name!r} is not on this machine{_needs(manager, name)}", _told(error), _SUPPLY
        ) from error
    except Exception as error:  # a task is third-party YAML and code, which may raise anything
        raise PatchCompileError(
            f"Task {name!r} can't be loaded", _told(error), f"Mend {_source(manager, name)}."
        ) from error
    return loaded


def _needs(manager: TaskManager, name: str) -> str:
    """Returns the dataset that a task names, for an error; empty if the task names none."""
    settings = manager.task_index[name].cfg or {}
    parts = [str(settings[key]) for key in ("dataset_path", "dataset_name") if settings.get(key)]
    return f": it needs the dataset {', '.join(parts)}" if parts else ""


def _source(manager: TaskManager, name: str) -> str:
    return str(manager.task_index[name].yaml_path or name)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _check_can_run(name: str, task: Any) -> None:
    """Refuse tasks that the harness would refuse later, with a clearer error and before a model is loaded."""
    if getattr(task, "UNSAFE_CODE", False):
        raise PatchCompileError(
            f"Task {name!r} runs code that the model writes",
            "patch-compile does not run such code on this machine.",
            "Run it with lm-evaluation-harness itself, on OUT/model, where its code may do no harm.",
        )
    if getattr(task, "MULTIMODAL", False):
        raise PatchCompileError(
            f"Task {name!r} asks about images or sound",
            "The models here read only text.",
            "Leave it out.",
        )
