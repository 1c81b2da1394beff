"""The splits of one stage: rows, samples and loaders; the same for both stages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.utils.data import DataLoader

from hf_contour.data.augmentation.colour import ColourTransform
from hf_contour.data.augmentation.recipe import Augmentation, AugmentationRecipe
from hf_contour.data.labels import label_names
from hf_contour.data.mixture import parse_sources, sampling_weights
from hf_contour.data.samples import ContourSamples, SampleBuilder, collate
from hf_contour.evaluation.loops import Sources
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.training.arguments import ContourArguments, GenderArguments
from hf_contour.training.feature_cache import LabelledPlaces
from hf_contour.training.interrupts import ignore_stop_requests
from hf_contour.training.order import PlacedSamples, SampleOrder, fitting_batch_size
from hf_contour.training.resuming import ResumeError
from hf_contour.training.rows import TrainRows, load_rows
from hf_contour.training.streams import Share, StreamedSamples, StreamOrder, StreamReader

Figures: TypeAlias = dict[str, Any]
Collate: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]


class StageData:
    """The splits of one stage: rows, samples and loaders.

    Args:
        arguments: settings.
        processor: makes `pixel_values`.
        rows: the training split.
        accelerator: processes and device.

    Attributes:
        batch_size: samples of a process in a micro-batch; less than was asked for where the split is smaller.
        step_size: samples in a step, over all processes.
        steps_per_epoch: whole steps in a pass over the training split; all steps of a stream.
    """

    def __init__(
        self,
        arguments: ContourArguments | GenderArguments,
        processor: ContourImageProcessor,
        rows: TrainRows,
        accelerator: Accelerator,
    ) -> None:
        self.arguments, self.processor, self.accelerator = arguments, processor, accelerator
        self.train_rows, self.rows = rows, rows.first
        self.collate_train: Collate = collate
        self.needs_images = True
        self.train = self._train_samples()
        self._evaluated: dict[str, ContourSamples] = {}
        self._loaders: dict[str, DataLoader] = {}
        self._stream_order: StreamOrder | None = None
        self._stream_state: list[dict[str, Any]] | None = None
        accumulation = arguments.gradient_accumulation_steps or 1
        self._micro_batches = accumulation * accelerator.num_processes
        self.batch_size = arguments.batch_size
        if isinstance(self.train, ContourSamples):
            self.batch_size = fitting_batch_size(arguments.batch_size, len(self.train), self._micro_batches)
        self.step_size = self.batch_size * self._micro_batches
        self.steps_per_epoch = (
            len(self.train) // self.step_size if isinstance(self.train, ContourSamples) else arguments.max_steps
        )

    def _train_samples(self) -> ContourSamples | StreamedSamples:
        arguments = self.arguments
        recipe, colour = arguments.mapping("augmentation"), arguments.mapping("colour")
        drawing: dict[str, Any] = {
            "augmentation": Augmentation(AugmentationRecipe.from_dict(recipe)) if recipe else None,
            "colour": ColourTransform.from_dict(colour) if colour else None,
            "seed": arguments.seed,
        }
        skip = arguments.on_bad_image == "skip"
        if isinstance(self.rows, IterableDataset):
            builder = SampleBuilder(self.processor, arguments.stage, self.rows.features, num_samples=None, **drawing)
            return StreamedSamples(builder, skip_bad_images=skip)
        return ContourSamples(
            self.rows, self.processor, stage=arguments.stage, cache=arguments.cache, skip_bad_images=skip, **drawing
        )

    def evaluated(self, split: str) -> ContourSamples:
        """The samples of a split as they are, without augmentation."""
        if split not in self._evaluated:
            names = label_names(self.rows) if "label" in (self.rows.features or {}) else None
            rows = load_rows(self.arguments, split, label_names=names)
            self._evaluated[split] = ContourSamples(rows, self.processor, stage=self.arguments.stage)
        return self._evaluated[split]

    def sources(self, split: str) -> Sources | None:
        """Which source each row of a split is of; `None` where there is but one."""
        rows = self.evaluated(split).source
        if "source" not in rows.column_names or isinstance(self.arguments.data, str):
            return None
        return Sources(rows.features["source"].names, rows["source"][:])

    def train_loader(self, *, start_step: int, num_steps: int) -> DataLoader:
        """Micro-batches of this process from a step on."""
        options: dict[str, Any] = {
            "collate_fn": self.collate_train,
            "num_workers": self.arguments.num_workers,
            "worker_init_fn": ignore_stop_requests,
            "pin_memory": self.accelerator.device.type == "cuda",
            "generator": torch.Generator(),  # else the loader would draw from the generator of dropout
        }
        if isinstance(self.train, StreamedSamples):
            self._stream_order = self._order_of_streams(start_step, num_steps)
            return DataLoader(self.train, batch_sampler=self._stream_order, **options)
        placed = PlacedSamples(self.train) if self.needs_images else LabelledPlaces(self.train)
        return DataLoader(placed, batch_sampler=self._order(start_step, num_steps), **options)

    def _order(self, start_step: int, num_steps: int) -> SampleOrder:
        assert isinstance(self.rows, Dataset)
        arguments, weights = self.arguments, None
        several = not isinstance(arguments.data, str)
        if arguments.balance != "none" or several:
            sources = parse_sources(arguments.data or ()) if several else ()
            weights = sampling_weights(self.rows, arguments.balance or "none", sources=sources)
        return SampleOrder(
            len(self.rows),
            self.batch_size,
            num_steps,
            seed=arguments.seed,
            weights=weights,
            accumulation_steps=arguments.gradient_accumulation_steps or 1,
            num_processes=self.accelerator.num_processes,
            process_index=self.accelerator.process_index,
            start_step=start_step,
        )

    def _order_of_streams(self, start_step: int, num_steps: int) -> StreamOrder:
        arguments, accumulation = self.arguments, self.arguments.gradient_accumulation_steps or 1
        share = Share(self.accelerator.process_index, self.accelerator.num_processes)
        readers = [
            StreamReader(stream, share, seed=arguments.seed, block_size=arguments.shuffle_buffer)
            for stream in self.train_rows.parts
            if isinstance(stream, IterableDataset)
        ]
        return StreamOrder(
            readers,
            self.train_rows.weights,
            batch_size=self.batch_size,
            first_batch=start_step * accumulation,
            num_batches=num_steps * accumulation,
            seed=arguments.seed,
            ahead=2 * arguments.num_workers + accumulation,  # what a loader asks for beforehand
            state=self._stream_state,
        )

    def state_at(self, step: int) -> list[dict[str, Any]] | None:
        """Where this process stands in its streams after a step, for a checkpoint; `None` without streams."""
        if self._stream_order is None:
            return self._stream_state
        return self._stream_order.state_at(step * (self.arguments.gradient_accumulation_steps or 1))

    def load_states(self, states: Any) -> None:
        """Takes back what `state_at` gave in each process, before the loader is made.

        Raises:
            ResumeError: If a checkpoint of another version says in another way where its streams stood.
        """
        if not self.train_rows.is_stream:
            return
        own = states[self.accelerator.process_index] if isinstance(states, list) and states else None
        if not isinstance(own, list) or not all(map(StreamReader.is_state, own)):
            raise ResumeError(
                f"{self.arguments.folder} holds a training of another version, which kept its place in a stream in "
                "another way; give --overwrite to throw it away, or another --run_name."
            )
        self._stream_state = own

    def evaluation_loader(self, split: str) -> DataLoader:
        """Batches of a split, dealt out to the processes."""
        if split not in self._loaders:  # Accelerate keeps every loader that it prepares
            loader = DataLoader(
                self.evaluated(split),
                # Whole images differ in size.
                batch_size=1 if self.arguments.stage == "contour" else self.arguments.eval_batch_size,
                collate_fn=collate,
                num_workers=self.arguments.num_workers,
                worker_init_fn=ignore_stop_requests,
                generator=torch.Generator(),
            )
            self._loaders[split] = self.accelerator.prepare_data_loader(loader)
        return self._loaders[split]

    def sample_name(self, index: int) -> str:
        """Row number, and file name where the source knows it."""
        if isinstance(self.rows, IterableDataset):
            return f"position {index} of the stream"
        image = self.rows[index]["image"]
        path = image.get("path") if isinstance(image, dict) else None
        return f"row {index}" + (f", {path}" if path else "")
