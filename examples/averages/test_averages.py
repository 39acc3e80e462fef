import torch
from tfm_averages import Averages

from tfm.core.config import ModelConfig
from tfm.core.model.laws import check_mixer
from tfm.core.model.mixer import Context


def test_laws() -> None:
    check_mixer("averages")
    check_mixer("averages", bias=True, axes=2)


def test_it_is_its_equation() -> None:
    torch.manual_seed(0)
    mixer = Averages(ModelConfig(width=8, heads=2), 0)
    x = torch.randn(1, 5, 8)
    values, gate = mixer.inputs(x).chunk(2, dim=-1)
    a = mixer.decay.sigmoid().repeat_interleave(4)
    average = torch.zeros(8)
    for t in range(5):
        average = a * average + (1 - a) * values[0, t]
        expected = mixer.out(average * torch.nn.functional.silu(gate[0, t]))
        torch.testing.assert_close(mixer(x, Context())[0, t], expected)
