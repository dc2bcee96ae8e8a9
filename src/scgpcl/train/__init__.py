"""Training plans and what happens between epochs."""

from scgpcl.train._callbacks import PrototypeUpdate, TargetUpdate, encode_all
from scgpcl.train._checkpoint import EpochCheckpoint, RunState, read_checkpoint
from scgpcl.train._decoder import BestDecoder, DecoderPlan
from scgpcl.train._guard import FiniteLosses
from scgpcl.train._plans import ClusterPlan, PretrainPlan, StagePlan
from scgpcl.train._ranks import SameCells, from_first
from scgpcl.train._stages import StageSettings, fit_stage, merge_histories

__all__ = [
    "BestDecoder",
    "ClusterPlan",
    "DecoderPlan",
    "EpochCheckpoint",
    "FiniteLosses",
    "PretrainPlan",
    "PrototypeUpdate",
    "RunState",
    "SameCells",
    "StagePlan",
    "StageSettings",
    "TargetUpdate",
    "encode_all",
    "fit_stage",
    "from_first",
    "merge_histories",
    "read_checkpoint",
]
