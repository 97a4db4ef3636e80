"""Losses of a student against a teacher, in chunks of positions (`cross_entropy.chunked`); each has a plain reference.

p is the teacher's distribution or what is kept of it, q the student's, both softmax(z / T) at a temperature T; y is the
hard target. The loss of a position is

    (1 - mix) T^2 H(p, q) + mix H(y, softmax(z)),     H(p, q) = -sum p log q

with the gradient of the cross-entropy H(p, q), which is that of KL(p || q), because the teacher is fixed. T^2: the gradient
of H(p, q) shrinks with 1 / T^2 for large T, and the factor keeps it as large as that of the hard loss (Hinton, Vinyals, Dean
2015, section 2.1). H and not KL is the loss that Gemma 2 states (2024, section 3).

The same pass over a chunk gives what is reported beside the loss, so that no logits are computed twice: at T = 1, one
product with each head. (Elsewhere the hard target's softmax takes further passes over the chunk, but no product either.)

Shapes: N positions, V vocabulary, D width, E the teacher's width, K kept entries per position, n positions of a chunk.
"""

from typing import NamedTuple

import torch

from arch.kernels import native
from arch.kernels.cross_entropy import all_logits, chunked, logits_, softmax_

# Bytes of a further buffer for some of a chunk's rows at a time.
SCRATCH_BYTES = 32 << 20
SIGNATURES = {"against_teacher": [native.POINTER] * 7 + [native.INTEGER] * 2 + [native.REAL] * 3 + [native.INTEGER]}


class Distances(NamedTuple):
    """How far a student is from its teacher. Only `loss` has a gradient.

    loss: the sum over positions. Of each position, (N,): kl_N, KL(p || q) in nats; agree_N, 1 where both find the same token
    the most likely, or 0; nats_N, -log softmax(z) of the hard target, at temperature 1 whatever T.
    """

    loss: torch.Tensor
    kl_N: torch.Tensor
    agree_N: torch.Tensor
    nats_N: torch.Tensor


def reference_full(hidden_ND, weight_VD, targets_N, teacher_hidden_NE, teacher_weight_VE, **options):
    """The Distances from a teacher's whole distribution, from all N x V logits.

    options: softcap and teacher_softcap, None for none; temperature; mix.
    """
    temperature, cap = options.get("temperature", 1.0), options.get("teacher_softcap")
    with torch.no_grad():
        p_NV = (all_logits(teacher_hidden_NE, teacher_weight_VE, cap) / temperature).softmax(-1)
    return _reference(all_logits(hidden_ND, weight_VD, options.get("softcap")), p_NV, targets_N, options)


def reference_sparse(hidden_ND, weight_VD, targets_N, ids_NK, p_NK, tail_N=None, **options):
    """The Distances from K entries of a teacher's distribution, from all N x V logits.

    p is 0 for an entry that is not used. tail_N: the mass of all other tokens, which are then one further outcome; without
    it the student's probabilities are over the whole vocabulary. options: softcap, temperature, mix.
    """
    z_NV = all_logits(hidden_ND, weight_VD, options.get("softcap"))
    p_NV = torch.zeros_like(z_NV).scatter_add_(1, ids_NK, p_NK.to(z_NV.dtype))
    return _reference(z_NV, p_NV, targets_N, options, tail_N, ids_NK)


def _reference(z_NV, p_NV, targets_N, options, tail_N=None, ids_NK=None):
    temperature, mix = options.get("temperature", 1.0), options.get("mix", 0.0)
    log_q_NV = (z_NV / temperature).log_softmax(-1)
    best_N1 = p_NV.argmax(1, keepdim=True)
    if tail_N is not None:
        others_NV = log_q_NV.scatter(1, ids_NK, -torch.inf)
        log_q_NV = torch.cat([log_q_NV, others_NV.logsumexp(1, keepdim=True)], 1)
        p_NV = torch.cat([p_NV, tail_N[:, None].to(p_NV.dtype)], 1)
    soft_N = -(p_NV * log_q_NV).sum(1)
    nats_N = -z_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    loss = ((1 - mix) * temperature**2 * soft_N + mix * nats_N).sum()
    kl_N = soft_N + torch.xlogy(p_NV, p_NV).sum(1)
    agree_N = (z_NV.gather(1, best_N1) >= z_NV.amax(1, keepdim=True))[:, 0].to(z_NV.dtype)
    return Distances(loss, kl_N.detach(), agree_N, nats_N.detach())


def full(
    hidden_ND,
    weight_VD,
    targets_N,
    teacher_hidden_NE,
    teacher_weight_VE,
    softcap=None,
    teacher_softcap=None,
    temperature=1.0,
    mix=0.0,
):
    """`reference_full` in chunks: the teacher's logits are computed from its hidden states, chunk by chunk.

    Raises ValueError if the numbers of positions or the vocabularies differ.
    """
    student, its_teacher = (len(hidden_ND), len(weight_VD)), (len(teacher_hidden_NE), len(teacher_weight_VE))
    if student != its_teacher:
        raise ValueError(f"(positions, vocabulary) differ: the student has {student}, the teacher {its_teacher}")
    teacher = teacher_hidden_NE.detach(), teacher_weight_VE.detach(), teacher_softcap
    return _distances(hidden_ND, weight_VD, _Full(targets_N, *teacher, temperature, mix), softcap, temperature)


def sparse(hidden_ND, weight_VD, targets_N, ids_NK, p_NK, tail_N=None, softcap=None, temperature=1.0, mix=0.0):
    """`reference_sparse` in chunks. p and, if it is given, the tail of a position must sum to one.

    With a tail, the K ids of a position must be different ones. Raises ValueError if shapes do not fit.
    """
    if ids_NK.shape != p_NK.shape or len(ids_NK) != len(hidden_ND):
        raise ValueError(f"ids {tuple(ids_NK.shape)}, p {tuple(p_NK.shape)} and {len(hidden_ND)} positions do not fit")
    if tail_N is not None and ids_NK.shape[1] == len(weight_VD):
        tail_N = None  # every token is an entry
    kept = _Sparse(targets_N, ids_NK, p_NK.detach(), tail_N, temperature, mix)
    return _distances(hidden_ND, weight_VD, kept, softcap, temperature)


def _distances(hidden_ND, weight_VD, wanted, softcap, temperature):
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    loss = chunked(hidden_ND, weight_VD, wanted, softcap, temperature)
    empty = loss.new_empty(0, dtype=loss.dtype).detach()
    kl_N, agree_N, nats_N = (torch.cat([empty, *parts]) for parts in (wanted.kl_n, wanted.agree_n, wanted.nats_n))
    return Distances(loss, kl_N.clamp_(min=0), agree_N, nats_N)  # a KL below 0 is rounding


class _Full:
    """The whole distribution of a teacher."""

    buffers = 1

    def __init__(self, targets_N, hidden_NE, weight_VE, softcap, temperature, mix):
        self.targets_N, self.hidden_NE, self.weight_VE, self.softcap = targets_N, hidden_NE, weight_VE, softcap
        self.temperature, self.mix = temperature, mix
        self.kl_n, self.agree_n, self.nats_n = [], [], []

    def differ(self, z_nV, first, p_nV):
        """The sum of the losses of the positions of z, from `first` on. z becomes its gradient; p is a buffer."""
        chosen = slice(first, first + len(z_nV))
        logits_(p_nV, self.hidden_NE[chosen], self.weight_VE, self.softcap, self.temperature, p_nV)
        targets_n = self.targets_N[chosen].contiguous()
        library = native.library("distillation", (z_nV, p_nV), SIGNATURES)
        by_c = library is not None and not (self.mix and self.temperature != 1)
        soft_n, *others = self._by_c(library, z_nV, p_nV, targets_n) if by_c else self._by_torch(z_nV, p_nV, targets_n)
        for kept, values_n in zip((self.kl_n, self.agree_n, self.nats_n), others, strict=True):
            kept.append(values_n)
        return ((1 - self.mix) * self.temperature**2 * soft_n + self.mix * self.nats_n[-1]).sum()

    def _by_c(self, library, z_nV, p_nV, targets_n):
        kl_n, agree_n, nats_n, soft_n = out = z_nV.new_empty(4, len(z_nV))
        addresses = (x.data_ptr() for x in (z_nV, p_nV, targets_n, *out))
        weight = (1 - self.mix) * self.temperature**2
        library.against_teacher(*addresses, *z_nV.shape, self.temperature, weight, self.mix, torch.get_num_threads())
        return soft_n, kl_n, agree_n, nats_n

    def _by_torch(self, z_nV, p_nV, targets_n):
        size = max(1, SCRATCH_BYTES // (z_nV.shape[1] * z_nV.itemsize))
        scratch = z_nV.new_empty(1 + (self.temperature != 1), min(size, len(z_nV)), z_nV.shape[1])
        pieces = zip(z_nV.split(size), p_nV.split(size), targets_n[:, None].split(size), strict=True)
        parts = [self._part(z, p, target, scratch[:, : len(z)]) for z, p, target in pieces]
        return [torch.cat(column)[:, 0] for column in zip(*parts, strict=True)]

    def _part(self, z_nV, p_nV, target_n1, scratch):
        """(soft, KL, agreement, nats), each (n, 1), of some rows; z becomes its gradient, p the distribution."""
        best_n1, largest_n1 = p_nV.argmax(1, keepdim=True), z_nV.amax(1, keepdim=True)
        agree_n1 = (z_nV.gather(1, best_n1) >= largest_n1).to(z_nV.dtype)
        largest_p_n1, of_target_n1 = p_nV.gather(1, best_n1), z_nV.gather(1, target_n1)
        nats_n1, hard_nV = _hard(z_nV, target_n1, largest_n1, self.temperature, scratch[-1])
        apart_nV = torch.sub(p_nV, z_nV, out=scratch[0])
        log_p_n1 = softmax_(p_nV, largest_p_n1)
        apart_n1 = apart_nV.mul_(p_nV).sum(1, keepdim=True)
        mean_n1 = torch.mul(p_nV, z_nV, out=apart_nV).sum(1, keepdim=True)
        log_q_n1 = softmax_(z_nV, largest_n1)
        if hard_nV is None:
            nats_n1 = log_q_n1 - of_target_n1
        weight = (1 - self.mix) * self.temperature**2
        z_nV.mul_(weight if hard_nV is not None else weight + self.mix).sub_(p_nV, alpha=weight)
        _add_hard(z_nV, hard_nV, target_n1, self.mix, self.temperature)
        return log_q_n1 - mean_n1, log_q_n1 - log_p_n1 + apart_n1, agree_n1, nats_n1


class _Sparse:
    """What is kept of a teacher: K entries per position and, if it is an outcome, the mass of all other tokens."""

    def __init__(self, targets_N, ids_NK, p_NK, tail_N, temperature, mix):
        self.targets_N, self.ids_NK, self.p_NK, self.tail_N = targets_N, ids_NK, p_NK, tail_N
        self.temperature, self.mix = temperature, mix
        self.buffers = int(temperature != 1)
        self.kl_n, self.agree_n, self.nats_n = [], [], []

    def differ(self, z_nV, first, *spare):
        """The sum of the losses of the positions of z, from `first` on. z becomes its gradient."""
        chosen = slice(first, first + len(z_nV))
        ids_nK, p_nK, target_n1 = self.ids_NK[chosen], self.p_NK[chosen].to(z_nV.dtype), self.targets_N[chosen, None]
        best_n1 = ids_nK.gather(1, p_nK.argmax(1, keepdim=True))
        largest_n1, z_nK, of_target_n1 = z_nV.amax(1, keepdim=True), z_nV.gather(1, ids_nK), z_nV.gather(1, target_n1)
        self.agree_n.append((z_nV.gather(1, best_n1) >= largest_n1)[:, 0].to(z_nV.dtype))
        nats_n1, hard_nV = _hard(z_nV, target_n1, largest_n1, self.temperature, *spare)
        weight = (1 - self.mix) * self.temperature**2
        scale = weight if hard_nV is not None else weight + self.mix  # of q, where it is its own gradient's
        if self.tail_N is None:
            log_q_n1 = softmax_(z_nV, largest_n1)
            soft_n1 = (p_nK * (log_q_n1 - z_nK)).sum(1, keepdim=True)
            kl_n1 = (torch.xlogy(p_nK, p_nK) + p_nK * (log_q_n1 - z_nK)).sum(1, keepdim=True)
            if scale != 1:
                z_nV.mul_(scale)
        else:
            # In logarithms: the tail of a student that is sure of itself is far below what 1 - sum(q) can show.
            tail_n1 = self.tail_N[chosen, None].to(z_nV.dtype)
            log_others_n1 = softmax_(z_nV.scatter_(1, ids_nK, -torch.inf))
            log_q_n1 = torch.logaddexp(log_others_n1, z_nK.logsumexp(1, keepdim=True))
            less_nK, less_n1 = log_q_n1 - z_nK, log_q_n1 - log_others_n1
            soft_n1 = (p_nK * less_nK).sum(1, keepdim=True) + tail_n1 * less_n1
            kl_n1 = soft_n1 + torch.xlogy(p_nK, p_nK).sum(1, keepdim=True) + torch.xlogy(tail_n1, tail_n1)
            z_nV.mul_(scale * torch.exp(-less_n1) - weight * tail_n1).scatter_(1, ids_nK, scale * torch.exp(-less_nK))
        z_nV.scatter_add_(1, ids_nK, -weight * p_nK)
        if hard_nV is None:
            nats_n1 = log_q_n1 - of_target_n1
        _add_hard(z_nV, hard_nV, target_n1, self.mix, self.temperature)
        self.kl_n.append(kl_n1[:, 0])
        self.nats_n.append(nats_n1[:, 0])
        return ((1 - self.mix) * self.temperature**2 * soft_n1 + self.mix * nats_n1).sum()


def _hard(z_nV, target_n1, largest_n1, temperature, *spare):
    """(nats of the target at temperature 1, the softmax at temperature 1 in the buffer); (None, None) if that is q itself."""
    if temperature == 1:
        return None, None
    hard_nV = torch.mul(z_nV, temperature, out=spare[0])
    return softmax_(hard_nV, temperature * largest_n1) - temperature * z_nV.gather(1, target_n1), hard_nV


def _add_hard(z_nV, hard_nV, target_n1, mix, temperature):
    """Add the gradient of the hard loss, by logits that are divided by the temperature, to z."""
    if mix:
        if hard_nV is not None:
            z_nV.add_(hard_nV, alpha=mix * temperature)
        z_nV.scatter_add_(1, target_n1, torch.full_like(target_n1, -mix * temperature, dtype=z_nV.dtype))
