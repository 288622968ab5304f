"""ModelBuilder: compiles what was added to it, and shards the checkpoint that it is given a loader of."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from neuron_standin import graph, shards
from neuron_standin.record import record
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
Loader = Callable[[], Mapping[str, torch.Tensor]]


class ModelBuilder:
    def __init__(
        self,
        router: Any,
        tp_degree: int,
        checkpoint_loader: Loader,
        pp_degree: int = 1,
        ep_degree: int = 1,
        world_size: int | None = None,
        start_rank_id: int = 0,
        local_ranks_size: int | None = None,
        compiler_workdir: str | None = None,
        debug: bool = False,
        num_cores_per_group: int = 1,
        init_custom_process_group_fn: Callable[[], None] | None = None,
        logical_nc_config: int = 1,
        weights_to_skip_layout_optimization: list[str] | None = None,
    ) -> None:
        self.checkpoint_loader = checkpoint_loader
        self.compiler_workdir = compiler_workdir or "/tmp/nxd_model/"
        self.tp_degree = tp_degree
        self.start_rank_id = start_rank_id
        self.local_ranks_size = local_ranks_size or world_size or tp_degree
        self.model_collection: dict[str, str] = {}
        self.described: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None] | None = None

    def add(self, key: str, model_instance: Any, compiler_args: str) -> "ModelBuilder":
        """`model_instance` describes the whole model here: config, flags, sampling."""
        self.model_collection[key] = compiler_args
        self.described = model_instance
        return self

    def trace(self, initialize_model_weights: bool = True, dry_run: bool = False) -> Any:
        assert self.described is not None
        workdir = Path(self.compiler_workdir)
        if workdir.exists():
            shutil.rmtree(workdir)
        traced = graph.trace(*self.described)
        for key, arguments in self.model_collection.items():
            folder = workdir / key / "_tp0_bk0"
            folder.mkdir(parents=True)
            (folder / "model").mkdir()
            (folder / "model" / "graph.hlo").write_text(f"{key} {arguments}\n")
            if not dry_run:
                _compile(folder / "model" / "graph.hlo", folder, arguments)
        return None if dry_run else traced

    def shard_checkpoint(self, serialize_path: str | None = None) -> list[Tensors]:
        """Every local rank's tensors; written straight to their final names where a folder is given."""
        assert self.described is not None
        config, flags, _ = self.described
        record("shard_checkpoint", serialize_path=serialize_path, start=self.start_rank_id, ranks=self.local_ranks_size)
        made: list[Tensors] = shards.shard(config, flags, self.checkpoint_loader())
        if serialize_path is not None:
            Path(serialize_path).mkdir(parents=True, exist_ok=True)
            for rank, tensors in enumerate(made, self.start_rank_id):
                save_file(tensors, rank_file(serialize_path, rank))
        return made

    def transform_weight_layout_with_overriden_option(self, sharded_checkpoint_dir: str) -> None:
        """Rewrites the rank files in the compiler's own layout."""
        for rank in range(self.start_rank_id, self.start_rank_id + self.local_ranks_size):
            path = rank_file(sharded_checkpoint_dir, rank)
            moved = {name: t.t().contiguous() if t.dim() == 2 else t for name, t in load_file(path).items()}
            save_file(moved, path)


def rank_file(folder: str, rank: int) -> str:
    return str(Path(folder, f"tp{rank}_sharded_checkpoint.safetensors"))


def _compile(hlo: Path, folder: Path, arguments: str) -> None:
    program = shutil.which("neuronx-cc")
    command = [program] if program else [sys.executable, "-m", "neuronxcc"]
    options = ["--framework=XLA", "--output", str(folder / "graph.neff"), *arguments.split()]
    done = subprocess.run([*command, "compile", str(hlo), *options], check=False)
    if done.returncode != 0:
        raise RuntimeError(f"neuronx-cc failed with {done.returncode}")
