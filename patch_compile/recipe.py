"""The settings of a build: a frozen model that checks them together. `patch_compile.options` declares each of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import field_serializer

from masklearn import DEFAULT_TILE, LearnRecipe, LearnSettings, Requires
from masklearn.base.durable import whole_file
from masklearn.base.threads import even_parts
from masklearn.choice.goal import LARGEST_RATIO
from masklearn.choice.menu import leaves_choice, named_types, undecided
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.tiles import WHOLE
from masklearn.model.hub import fetched, spelled
from patch_compile.artifacts.layout import RECIPE
from patch_compile.artifacts.plan import Asked
from patch_compile.artifacts.recipe_file import read_recipe
from patch_compile.engine.options import EngineOptions
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.options import AUTO, BuildOptions, flag_of
from patch_compile.packing.fusion import spell_fusions
from patch_compile.planning.speed_goal import SpeedGoal

if TYPE_CHECKING:
    from masklearn.masks.maskset import MaskSet

WHOLE_ROWS = (DEFAULT_TILE[0], WHOLE)
# Settings that only learning reads, but the size of tiles.
_LEARNING = (
    "method", "per_layer", "kinds", "criterion", "repair", "repair_steps", "repair_minutes", "batch", "learning_rate",
    "prior", "steps",
)  # fmt: skip


class Recipe(LearnSettings, BuildOptions):
    """All settings of `patch-compile build`. `None` stands for a default that is determined when the build starts."""

    @field_serializer("fuse")
    def _spell_fusions(self, fusions: tuple[str, ...]) -> str:
        return spell_fusions(fusions)

    @classmethod
    def parse(cls, settings: dict[str, Any], *, weights: bool = True) -> Self:
        """Validate settings from arguments, flags or a file, and fetch a model that a hub id names.

        weights: False to fetch only its config.json. Raises UsageError, also for settings that exclude each other, and
        PatchCompileError for a model that cannot be fetched.
        """
        if hasattr(settings.get("model"), "save_pretrained"):
            raise UsageError(
                "A model in memory can't be built",
                "A build, and each later command on it, opens the folder of the dense model again.",
                "Save it with its tokenizer, and give the folder: `model.save_pretrained(FOLDER)`, "
                "`tokenizer.save_pretrained(FOLDER)`.",
            )
        recipe = super().parse(settings)
        recipe = recipe.model_copy(update=recipe._left_open())
        recipe._check_ratio()
        recipe._check_goal()
        recipe._check_choice_of_types()
        recipe._check_permutation()
        recipe._check_pruned()
        return recipe.model_copy(update={"model": fetched(recipe.model, weights=weights)})

    @classmethod
    def load(cls, path: Path) -> dict[str, Any]:
        """Returns the settings of a recipe.yaml, for flags to override before `parse`.

        A build writes its tile size, and leaves out weights that have the type of the model. Raises PatchCompileError for a
        file that cannot be read or holds no settings.
        """
        settings = read_recipe(path)
        return {"weights": None} | settings if "tile" in settings else settings

    @classmethod
    def of_build(cls, out: Path) -> Recipe:
        """Returns the settings that OUT was built with. Raises PatchCompileError for settings that no build has.

        The timing cache is left out: it is written after a build, and OUT may be somebody else's.
        """
        settings = cls.load(out / RECIPE)
        settings.pop("timing_cache", None)
        try:
            return cls.parse(settings | {"out": out})
        except UsageError as error:  # the settings come from a file, not from the user's command
            raise PatchCompileError(
                f"{out / RECIPE} holds settings that no build has",
                f"{error.what}. {error.why}",
                "Build again.",
            ) from None

    def _left_open(self) -> dict[str, Any]:
        """Returns the settings that the user left out and that depend on others: a speed opens all choices, and bytes open
        the kinds of tiles, of which the best lose least at equal bytes."""
        left = {"tile", "kinds", "weights"} - self.model_fields_set
        if self.goal is None or self.mask is not None:
            chosen: dict[str, Any] = {}
            if self.bytes_per_weight is not None and self.leaves_kinds_open:
                chosen["kinds"] = AUTO
            if self.tile is None:
                # A split linear is two GEMMs if its tiles have all of K.
                whole_rows = self.lowering == "split" and "tile" not in left
                chosen["tile"] = WHOLE_ROWS if whole_rows else DEFAULT_TILE
            if self.lowering == "split" and self.leaves_kinds_open:
                chosen["kinds"] = TWO_FOUR.name  # ordinary GEMMs know no other kind
            return chosen
        left -= {"kinds"} if self.traits.only_two_four else set()
        left -= set() if self.can_choose_types else {"weights"}
        return dict.fromkeys(left - {"tile"}, AUTO)

    @property
    def leaves_kinds_open(self) -> bool:
        """True if the user named no kinds of tiles, and the method learns more of them than 2:4."""
        return "kinds" not in self.model_fields_set and not self.traits.only_two_four

    @property
    def leaves_order_open(self) -> bool:
        """True if the user did not say whether hidden channels are reordered, and the method gains by it.

        Tiles of whole rows hold all channels of a linear in any order.
        """
        whole = self.tile_size[1] == WHOLE
        return "permute" not in self.model_fields_set and self.traits.permutes and not whole

    @property
    def tile_size(self) -> tuple[int, int]:
        """Rows and columns of a tile; the default while the size is still to be chosen."""
        return self.tile or DEFAULT_TILE

    @property
    def asked(self) -> Asked:
        mask, goal = str(self.mask) if self.mask is not None else None, self.goal or SpeedGoal()
        speed = {"speedup": goal.speedup, "budget_ms": goal.budget_ms}
        return Asked(mask=mask, ratio=self.ratio, bytes_per_weight=self.bytes_per_weight, **speed)

    @property
    def goal(self) -> SpeedGoal | None:
        """The requested speed; None if something else sets the amount of pruning."""
        return None if self.speedup is None else SpeedGoal.parse(self.speedup)

    def check_plannable(self) -> None:
        """Raises UsageError for a goal in bytes, which plans do not take: it also counts linears that are compiled dense."""
        if self.bytes_per_weight is not None:
            raise UsageError(
                "--bytes goes with neither compiling nor a target",
                "It counts over all covered linears, also over those that are compiled dense.",
                "Give --ratio, or learn by bytes first: `patch-compile learn --bytes` without --target, then `patch-compile "
                "build --mask`.",
            )

    def check_weights(self) -> None:
        """Raises UsageError for a 16-bit weight type other than the graph's, which has only one."""
        for kind in named_types(self.weights):
            if not kind.quantised and kind.name != self.dtype:
                raise UsageError(
                    f"--weights {kind} does not go with a graph in {self.dtype}",
                    "Weights of 16 bits have the type of the graph.",
                    f"Give --dtype {kind}, or --weights {self.dtype}.",
                )

    @property
    def idle(self) -> list[str]:
        """The flags of changed settings that only learning reads, if masks are given: they do not change these masks."""
        if self.mask is None:
            return []
        fields = type(self).model_fields
        changed = [name for name in _LEARNING if getattr(self, name) != fields[name].default]
        tile = [] if self.tile in (DEFAULT_TILE, WHOLE_ROWS) else ["tile"]
        return [flag_of(name) for name in changed + tile]

    def check_held_out(self) -> None:
        """Raise PatchCompileError if the text to evaluate on is the calibration text, by its name or its sha256."""
        from masklearn import open_text

        if self.calib is None or self.eval_text is None:
            return
        calib, evaluated = open_text(self.calib), open_text(self.eval_text)
        if calib.shares(evaluated):
            same = "" if calib.spec == evaluated.spec else f"By its sha256 it holds text of {self.calib}. "
            raise PatchCompileError(
                f"The evaluation text {self.eval_text} is also calibration text",
                f"{same}Masks lose less on the text that they are learned on than on other text.",
                "Give other text with --eval.",
            )

    def engine_options(self) -> EngineOptions:
        """Returns the options of the engine."""
        return EngineOptions(**self.model_dump(include=set(EngineOptions.__dataclass_fields__)))

    def learning(self, result: MaskSet | None = None) -> LearnRecipe:
        """Returns the settings for learning masks.

        result: masks of this recipe, to compare baselines with. Their ratio counts if none was asked for, as with given
        masks or a speed; beyond what --ratio takes, their bytes.
        """
        recipe = LearnRecipe.parse(self.model_dump(include=set(LearnRecipe.model_fields), exclude_none=True))
        if result is None or self.ratio is not None or self.bytes_per_weight is not None:
            return recipe
        within = result.ratio <= LARGEST_RATIO
        amount = {"ratio": result.ratio} if within else {"bytes_per_weight": result.bytes_per_weight}
        return recipe.model_copy(update=amount)

    def save(self, path: Path, texts: Collection[str] = ("calib", "eval_text")) -> None:
        """Write the effective settings. `build --recipe` with this file reproduces the run, byte for byte on CPUs with the
        same instructions and with the same versions, unless repair had a budget in minutes.

        texts: names of the settings that hold a text. If `calib` is not among them, it holds the path of a file.
        """
        settings = self.spelled(texts)
        # An ONNX file, which has no texts, is learned in fp32. Its source sets `threads` where they matter.
        if texts and self.mask is None and self._depends_on_threads():
            import torch

            settings.setdefault("threads", torch.get_num_threads())
        # Settings that were added here come in the order in which a run of this file would write them.
        in_order = {name: settings[name] for name in type(self).model_fields if name in settings}
        with whole_file(path) as part:
            part.write_text(yaml.safe_dump(in_order, sort_keys=False))

    def spelled(self, texts: Collection[str]) -> dict[str, Any]:
        """Returns the settings as `save` writes them, but the number of threads if that is not given."""
        from masklearn import open_text

        settings = self.model_dump(mode="json", exclude_none=True, exclude={"out"})
        paths = {"model", "mask", "pruned", "calib", "graph"} - {*texts}
        settings |= {k: spelled(Path(settings[k])) for k in paths if settings.get(k)}
        settings |= {k: open_text(settings[k]).spec for k in texts if settings.get(k)}
        if Path(self.prior).is_file():
            settings["prior"] = str(Path(self.prior).resolve())
        return settings

    def _depends_on_threads(self) -> bool:
        """Returns True if the result of learning depends on the number of threads.

        In bf16 oneDNN divides a GEMM among threads for the CPU's matrix unit, and stops only if that unit is left idle.
        In fp32 torch divides SiLU among threads (`masklearn.base.threads.even_parts`).
        """
        import torch

        from masklearn.base.device import usable_device
        from masklearn.model.modules import computes_in_bf16

        device = usable_device(self.device)
        if device.type != "cpu":
            return False
        if (self.traits.solves or self.trains) and computes_in_bf16(device):
            return True
        runs = self.trains or Requires.INPUTS in self.traits.needs
        return runs and not even_parts(self.threads or torch.get_num_threads(), self.length)

    def _check_ratio(self) -> None:
        """Require exactly one setting for the amount of pruning."""
        given = [flag_of(name) for name in Asked.model_fields if getattr(self, name, None) is not None]
        if not given:
            raise UsageError(
                "No ratio is given",
                "It says how much to prune.",
                "Give --ratio 0.4 or --speedup 1.3; --help lists what else says it.",
            )
        if len(given) > 1:
            raise UsageError(
                f"Both {given[0]} and {given[1]} are given",
                "Each of them says how much to prune.",
                "Drop one of the two.",
            )

    def _check_permutation(self) -> None:
        """Refuse a permutation with given masks: channels can only be permuted before masks are learned."""
        if self.permute and self.mask is not None:
            raise UsageError(
                "--permute does not go with a mask",
                "Masks say which weights stay by their places. Those learned with --permute bring the permuted model along.",
                "Drop --permute, or learn masks with it: `patch-compile learn --permute`.",
            )

    def _check_pruned(self) -> None:
        """Refuse a pruned model without masks: weights that are learned here are written anew."""
        if self.pruned is not None and self.mask is None:
            raise UsageError(
                "--pruned is given without --mask",
                "It names the weights that belong to given masks.",
                "Import its masks: `patch-compile import-mask PRUNED_DIR --model MODEL_DIR -o FILE`, and give --mask FILE.",
            )

    def _check_choice_of_types(self) -> None:
        """Refuse types that are to be chosen where nothing can choose them: for a speed or for bytes, while masks are
        learned."""
        if not leaves_choice(self.weights):
            return
        if self.mask is not None:
            raise UsageError(
                f"--weights {self.weights} does not go with a mask",
                "Types are chosen together with the tiles, while masks are learned. Learned masks bring theirs along.",
                "Leave --weights out, or name one type for each linear, such as --weights int8.",
            )
        if self.goal is None and self.bytes_per_weight is None:
            raise undecided(self.weights)
        self.check_choice()

    def _check_goal(self) -> None:
        """Refuse settings that do not go with a speed, which needs tiles that are ranked once over all linears."""
        if self.goal is None:
            return
        fix = "Drop one of the two. `patch-compile plan` says which ratio the speed takes."
        if self.traits.trains():
            why = "Its training steers towards a ratio."
            raise UsageError(f"--method {self.method} does not go with {self.goal}", why, fix)
        if self.per_layer:
            why = "It gives every linear the same ratio."
            raise UsageError(f"--per-layer does not go with {self.goal}", why, fix)


class GraphRecipe(Recipe):
    """The settings of `patch-compile compile --graph`. graph: an ONNX file that another program exported."""

    graph: Path


@contextmanager
def settings_from(path: Path) -> Iterator[None]:
    """Add the name of the file that settings come from to an error of the block, which may be about any of them."""
    try:
        yield
    except PatchCompileError as error:
        if str(path) not in str(error):
            error.add_note(f"settings: {path}, where no option says otherwise")
        raise
