"""The schedule of the planner's roofline, for the scripts beside this file."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from patch_compile.plan.roofline.schedule import CONFIGS, Config, Limits, Problem, choose_schedule

__all__ = ["CONFIGS", "Config", "Limits", "Problem", "choose_schedule"]
