"""Training plans and the steps between epochs."""

from scgpcl.train._arguments import check_device, check_split, check_trainer
from scgpcl.train._callbacks import FiniteLosses, LabelWatch, PrototypeUpdate, TargetUpdate, encode_all, from_first
from scgpcl.train._checkpoint import (
    EpochCheckpoint,
    RunState,
    check_checkpoint_path,
    check_run,
    identity,
    read_checkpoint,
)
from scgpcl.train._decoder import BestDecoder, DecoderPlan
from scgpcl.train._fit import Devices, History, SameCells, fit_stage, merge_histories
from scgpcl.train._plans import SET_BY_RUN, ClusterPlan, DistillationPlan, PretrainPlan, StagePlan
from scgpcl.train._read_out import DRAWN_SHARE, N_DEPTH_DRAWS, N_DRAWS
from scgpcl.train._run import Run
from scgpcl.train._statistics import cluster_distance, linked_shares, reference_statistics

__all__ = ["ClusterPlan", "DecoderPlan", "DistillationPlan", "PretrainPlan"]
