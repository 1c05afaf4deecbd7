"""HuBERT's Transformer (arXiv 2106.07447), and WavLM's (2110.13900) with gated position bias."""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

NUM_BUCKETS = 320  # WavLM's relative positions
MAX_DISTANCE = 800
FFT_MULTIPLE = 64  # of the lengths of transforms, which have small factors then


class LongConv(torch.autograd.Function):
    """A grouped convolution of stride 1, whose gradients are taken by FFT.

    The forward pass is torch's. Its backward pass takes oneDNN, for kernels as long as HuBERT's and
    few channels per group, several times as long.

    Example
    -------
    >>> x, weight = torch.randn(2, 4, 50), torch.randn(4, 2, 16, requires_grad=True)
    >>> LongConv.apply(x, weight, 8, 2).sum().backward()
    >>> grad, weight.grad = weight.grad, None
    >>> F.conv1d(x, weight, padding=8, groups=2).sum().backward()
    >>> torch.allclose(grad, weight.grad, atol=1e-4)
    True
    """

    @staticmethod
    def forward(ctx, x, weight, padding, groups):
        """Convolve (batch, channels, frames) with (channels, channels / groups, kernel)."""
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups = padding, groups
        return F.conv1d(x, weight, padding=padding, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradients of x and of the weight."""
        x, weight = ctx.saved_tensors
        padding, groups, frames = ctx.padding, ctx.groups, x.shape[2]
        size = frames + 2 * padding
        size += -size % FFT_MULTIPLE
        of_grad = torch.fft.rfft(grad, size).unflatten(1, (groups, -1))
        of_x = torch.fft.rfft(F.pad(x, (padding, 0)), size).unflatten(1, (groups, -1))
        of_weight = torch.fft.rfft(weight, size).unflatten(0, (groups, -1))
        to_x = torch.einsum("bgof,goif->bgif", of_grad, of_weight).flatten(1, 2)
        to_weight = torch.einsum("bgof,bgif->goif", of_grad.conj(), of_x).flatten(0, 1)
        grad_x = torch.fft.irfft(to_x, size)[..., padding : padding + frames]
        return grad_x, torch.fft.irfft(to_weight, size)[..., : weight.shape[2]], None, None


class PositionalConv(nn.Module):
    """HuBERT's positional embedding: a grouped convolution over time, weight-normalised."""

    def __init__(self, d_model, kernel, groups):
        super().__init__()
        conv = nn.Conv1d(d_model, d_model, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4.0 / (kernel * d_model)))
        nn.init.zeros_(conv.bias)
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)

    def forward(self, x):
        """Map (batch, frames, d_model) to the same shape."""
        if x.device.type != "cpu":
            return self._activate(self.conv(x.transpose(1, 2)), x)
        # oneDNN's bfloat16 kernel for few channels per group gives plainly wrong results on
        # CPUs with AMX (seen with torch 2.14).
        with torch.autocast("cpu", enabled=False):
            conv = self.conv
            found = LongConv.apply(
                x.float().transpose(1, 2), conv.weight, *conv.padding, conv.groups
            )
            return self._activate(found + conv.bias[:, None], x)

    def _activate(self, found, x):
        # An even kernel gives one frame too many, at the end.
        return F.gelu(found[..., : x.shape[1]]).transpose(1, 2).to(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, d_model, nhead, dropout):
        super().__init__()
        self.nhead = nhead
        self.dropout = dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x, keys=None, position_bias=None):
        """Attend over the frames of each row.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, frames, d_model).
        keys : torch.Tensor, optional
            Shape (batch, 1, 1, frames), bool, True at frames to attend to; None for all.
        position_bias : torch.Tensor, optional
            Shape (heads, frames, frames), for the attentions that have one.

        Returns
        -------
        torch.Tensor
            Shape (batch, frames, d_model).
        """
        q, k, v = (
            project(x).unflatten(-1, (self.nhead, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=self._attention_mask(x, keys, position_bias, q.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _attention_mask(self, x, keys, position_bias, dtype):
        return keys


class GatedBiasSelfAttention(SelfAttention):
    """Self-attention with WavLM's gated relative position bias (arXiv 2110.13900, eq. 3 to 7)."""

    def __init__(self, d_model, nhead, dropout):
        super().__init__(d_model, nhead, dropout)
        self.gru_rel_pos_linear = nn.Linear(d_model // nhead, 8)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, nhead, 1, 1))

    def _attention_mask(self, x, keys, position_bias, dtype):
        heads = x.unflatten(-1, (self.nhead, -1)).transpose(1, 2)
        gates = self.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1)
        update, reset = torch.sigmoid(gates).split(1, dim=-1)
        scale = update * (reset * self.gru_rel_pos_const - 1.0) + 2.0
        bias = (scale * position_bias).to(dtype)
        return bias if keys is None else bias.masked_fill(~keys, float("-inf"))


ATTENTIONS = {"hubert": SelfAttention, "wavlm": GatedBiasSelfAttention}


class FeedForward(nn.Module):
    """The position-wise part of a Transformer layer."""

    def __init__(self, d_model, d_ffn, dropout, activation_dropout):
        super().__init__()
        self.intermediate_dense = nn.Linear(d_model, d_ffn)
        self.output_dense = nn.Linear(d_ffn, d_model)
        self.activation_dropout = nn.Dropout(activation_dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """Map (batch, frames, d_model) to the same shape."""
        x = self.activation_dropout(F.gelu(self.intermediate_dense(x)))
        return self.dropout(self.output_dense(x))


class TransformerLayer(nn.Module):
    """A Transformer layer that normalises after each residual sum; see `Transformer`."""

    def __init__(self, config):
        super().__init__()
        d_model, dropout = config["d_model"], config["dropout"]
        attention = ATTENTIONS[config["attention"]]
        self.attention = attention(d_model, config["nhead"], config["attention_dropout"])
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(
            d_model, config["d_ffn"], dropout, config["activation_dropout"]
        )
        self.final_layer_norm = nn.LayerNorm(d_model)

    def forward(self, x, keys=None, position_bias=None):
        """Map (batch, frames, d_model) to the same shape; see `SelfAttention.forward`."""
        x = self.layer_norm(x + self.dropout(self.attention(x, keys, position_bias)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Transformer(nn.Module):
    """Positional convolution, layer norm and the stack of Transformer layers.

    Arguments
    ---------
    config : dict
        The arguments of `FrameEncoder`, by name.
    """

    def __init__(self, config):
        super().__init__()
        d_model = config["d_model"]
        self.layer_drop = config["layer_drop"]
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config["num_layers"]))
        self.rel_attn_embed = None
        if config["attention"] == "wavlm":
            self.rel_attn_embed = nn.Embedding(NUM_BUCKETS, config["nhead"])
        self.apply(_init_bert)
        self.pos_conv_embed = PositionalConv(
            d_model, config["pos_conv_kernel"], config["pos_conv_groups"]
        )
        self.layer_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(config["dropout"])

    def forward(self, x, valid=None):
        """Return the input of the first layer and the output of every layer.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, frames, d_model), zero at padded frames.
        valid : torch.Tensor, optional
            Shape (batch, frames), bool, False at padded frames; None without padding.

        Returns
        -------
        list of torch.Tensor
            num_layers + 1 tensors of shape (batch, frames, d_model). Padded frames are arbitrary.
        """
        keys = None
        if valid is not None:
            # A row without any frame attends to everything: a softmax over nothing is NaN.
            keys = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]
        bias = None if self.rel_attn_embed is None else self._position_bias(x.shape[1])
        hidden = [self.dropout(self.layer_norm(x + self.pos_conv_embed(x)))]
        passed_by = self._passed_by()
        for number, layer in enumerate(self.layers):
            if number in passed_by:
                hidden.append(_pass_by(layer, hidden[-1]))
            else:
                hidden.append(layer(hidden[-1], keys, bias))
        return hidden

    def _passed_by(self):
        """Draw, on the CPU, the numbers of the layers that are passed by in training."""
        if not (self.training and self.layer_drop):
            return ()
        drawn = torch.rand(len(self.layers)).tolist()
        return [number for number, value in enumerate(drawn) if value < self.layer_drop]

    def _position_bias(self, frames):
        """Return WavLM's bias of each head for each pair of frames, (heads, frames, frames)."""
        time = torch.arange(frames, device=self.rel_attn_embed.weight.device)
        buckets = relative_position_bucket(time - time[:, None])
        return self.rel_attn_embed(buckets).permute(2, 0, 1)


def _pass_by(layer, x):
    """Return x as it is, with a zero gradient for the layer, which DDP waits for."""
    return x + 0.0 * sum(p.sum() for p in layer.parameters() if p.requires_grad)


def relative_position_bucket(distance):
    """Return the bucket of each distance from query to key (arXiv 2110.13900, eq. 5).

    Half of the 320 buckets are for keys to the right. The nearest 80 frames have a bucket each,
    those up to 800 share them logarithmically, and all beyond fall into the last.

    Arguments
    ---------
    distance : torch.Tensor
        Frames from query to key, int64, of any shape.

    Returns
    -------
    torch.Tensor
        Bucket indices in [0, 320), int64, of the same shape.

    Example
    -------
    >>> relative_position_bucket(torch.tensor([-1, 0, 1, 5000])).tolist()
    [1, 0, 161, 319]
    """
    half = NUM_BUCKETS // 2
    exact = half // 2
    size = distance.abs()
    ratio = torch.log(size.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
    shared = (exact + ratio * (half - exact)).long().clamp(max=half - 1)
    return torch.where(size < exact, size, shared) + half * (distance > 0)


def _init_bert(module):
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
