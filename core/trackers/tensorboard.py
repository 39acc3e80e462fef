"""TensorBoard: event files, written without TensorFlow and without torch."""

from __future__ import annotations

import io
import json
import time
import wave
from collections.abc import Mapping
from typing import Any

from .tracker import TrackedRun

FLUSH_SECONDS = 5


class TensorBoard:
    """`tensorboard --logdir runs` shows all runs of a folder. The messages are those of
    torch.utils.tensorboard; pictures and sounds are kept as the bytes that they are."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        from tensorboard.plugins.text import metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._tensor, self._shape = tensor_pb2, tensor_shape_pb2
        self._text_metadata = metadata.create_summary_metadata("", "")
        self._writer = EventFileWriter(str(run.folder), flush_secs=FLUSH_SECONDS)
        # readers drop what earlier files have of steps from here on, which are taken again
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=run.step + 1, session_log=start)
        config = json.dumps(run.config, indent=2, sort_keys=True)
        self.text(run.step + 1, "config", config)

    def values(self, step: int, values: Mapping[str, float]) -> None:
        self._show(step, *(dict(tag=name, simple_value=value) for name, value in values.items()))

    def text(self, step: int, name: str, text: str) -> None:
        block = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown's code block
        tensor = self._tensor.TensorProto(
            dtype="DT_STRING",
            string_val=[block.encode()],
            tensor_shape=self._shape.TensorShapeProto(
                dim=[self._shape.TensorShapeProto.Dim(size=1)]
            ),
        )
        self._show(step, dict(tag=name, metadata=self._text_metadata, tensor=tensor))

    def image(self, step: int, name: str, png: bytes) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            width, height, channels = *picture.size, len(picture.getbands())
        image = self._summary.Summary.Image(
            width=width, height=height, colorspace=channels, encoded_image_string=png
        )
        self._show(step, dict(tag=name, image=image))

    def audio(self, step: int, name: str, wav: bytes) -> None:
        with wave.open(io.BytesIO(wav)) as sound:
            rate, channels, length = sound.getframerate(), sound.getnchannels(), sound.getnframes()
        audio = self._summary.Summary.Audio(
            sample_rate=rate,
            num_channels=channels,
            length_frames=length,
            encoded_audio_string=wav,
            content_type="audio/wav",
        )
        self._show(step, dict(tag=name, audio=audio))

    def close(self) -> None:
        self._writer.close()

    def _show(self, step: int, *values: dict[str, Any]) -> None:
        summary = self._summary.Summary
        self._add(step=step, summary=summary(value=[summary.Value(**each) for each in values]))

    def _add(self, **fields: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), **fields))
