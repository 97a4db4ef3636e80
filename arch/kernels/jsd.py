"""Generalised Jensen-Shannon divergence of a student from a teacher, in chunks of positions; with a plain reference.

With p the teacher's distribution, q the student's, both softmax(z / T), and m = beta p + (1 - beta) q:

    D_beta = beta KL(p || m) + (1 - beta) KL(q || m)    for 0 < beta < 1
    D_0 = KL(p || q), the forward divergence;           D_1 = KL(q || p), the reverse one

(Agarwal et al. 2024, "On-policy distillation of language models", arXiv 2306.13649). D_beta / beta goes to D_0 for beta to 0, and
D_beta / (1 - beta) to D_1 for beta to 1: the ends are of another size than what lies beside them. There is no factor T^2.

Shapes: N positions, V vocabulary, D width, E the teacher's width, n positions of a chunk.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from arch.kernels.cross_entropy import all_logits, chunked, logits_

# Bytes of each further buffer for some of a chunk's rows at a time.
SCRATCH_BYTES = 8 << 20


class Divergence(NamedTuple):
    """loss: the sum over positions, which has a gradient. each_N: of each position, in nats, without one."""

    loss: Tensor
    each_N: Tensor


def reference(z_NV: Tensor, teacher_z_NV: Tensor, beta: float, temperature: float = 1.0) -> Tensor:
    """The divergence of each position (N,), from logits."""
    log_q_NV, log_p_NV = (z_NV / temperature).log_softmax(-1), (teacher_z_NV / temperature).log_softmax(-1)
    if beta in (0, 1):
        first_NV, second_NV = (log_p_NV, log_q_NV) if beta == 0 else (log_q_NV, log_p_NV)
        return (first_NV.exp() * (first_NV - second_NV)).sum(-1)
    log_m_NV = torch.logaddexp(log_p_NV + math.log(beta), log_q_NV + math.log1p(-beta))
    kl = lambda log_a_NV: (log_a_NV.exp() * (log_a_NV - log_m_NV)).sum(-1)  # noqa: E731
    return beta * kl(log_p_NV) + (1 - beta) * kl(log_q_NV)


def reference_of_hidden(hidden_ND, weight_VD, teacher_hidden_NE, teacher_weight_VE, beta, **options):
    """The Divergence from hidden states, from all N x V logits. options: softcap, teacher_softcap, temperature."""
    teacher_z_NV = all_logits(teacher_hidden_NE, teacher_weight_VE, options.get("teacher_softcap")).detach()
    z_NV = all_logits(hidden_ND, weight_VD, options.get("softcap"))
    each_N = reference(z_NV, teacher_z_NV, beta, options.get("temperature", 1.0))
    return Divergence(each_N.sum(), each_N.detach())


def generalised_jsd(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    teacher_hidden_NE: Tensor,
    teacher_weight_VE: Tensor,
    beta: float,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    temperature: float = 1.0,
) -> Divergence:
    """`reference_of_hidden` in chunks. Raises ValueError if the numbers of positions or the vocabularies differ."""
    student, its_teacher = (len(hidden_ND), len(weight_VD)), (len(teacher_hidden_NE), len(teacher_weight_VE))
    if student != its_teacher:
        raise ValueError(f"(positions, vocabulary) differ: the student has {student}, the teacher {its_teacher}")
    if not (0 <= beta <= 1 and temperature > 0):
        raise ValueError(f"beta {beta} and temperature {temperature}: expected 0 <= beta <= 1 and a temperature above 0")
    wanted = _JSD(teacher_hidden_NE.detach(), teacher_weight_VE.detach(), teacher_softcap, temperature, beta)
    loss = chunked(hidden_ND, weight_VD, wanted, softcap, temperature)
    return Divergence(loss, torch.cat([loss.detach().new_empty(0), *wanted.each_n]))


class _JSD:
    """The teacher, and how its distribution and the student's are compared."""

    buffers = 1

    def __init__(self, hidden_NE, weight_VE, softcap, temperature, beta):
        self.hidden_NE, self.weight_VE, self.softcap = hidden_NE, weight_VE, softcap
        self.temperature, self.beta = temperature, beta
        self.each_n: list[Tensor] = []

    def differ(self, z_nV, first, p_nV):
        """The sum of the divergences of the positions of z, from `first` on. z becomes its gradient; p is a buffer.

        The gradient by z of KL(p || q) is q - p. Of the others it is q (r - sum q r) times (1 - beta), or 1 for beta = 1, where r
        is log(q / m), or log(q / p): what m or the sums add cancels.
        """
        chosen = slice(first, first + len(z_nV))
        logits_(p_nV, self.hidden_NE[chosen], self.weight_VE, self.softcap, self.temperature, p_nV)
        size = max(1, SCRATCH_BYTES // (z_nV.shape[1] * z_nV.itemsize))
        parts = [self._part(*rows) for rows in zip(z_nV.split(size), p_nV.split(size), strict=True)]
        self.each_n.append(torch.cat(parts))
        return self.each_n[-1].sum()

    def _part(self, z_nV, p_nV):
        log_q_nV, log_p_nV = z_nV.log_softmax(-1), p_nV.log_softmax(-1)
        q_nV = log_q_nV.exp()
        if self.beta == 0:
            p_nV = log_p_nV.exp()
            each_n = (p_nV * (log_p_nV - log_q_nV)).sum(-1)
            torch.sub(q_nV, p_nV, out=z_nV)
            return each_n
        if self.beta == 1:
            log_m_nV, part = log_p_nV, 1.0
        else:
            log_m_nV, part = torch.logaddexp(log_p_nV + math.log(self.beta), log_q_nV + math.log1p(-self.beta)), 1 - self.beta
        r_nV = log_q_nV.sub_(log_m_nV)
        kl_n1 = (q_nV * r_nV).sum(-1, keepdim=True)
        each_n = part * kl_n1[:, 0]
        if self.beta != 1:
            each_n = each_n + self.beta * (log_p_nV.exp() * (log_p_nV - log_m_nV)).sum(-1)
        torch.mul(q_nV, r_nV.sub_(kl_n1), out=z_nV)
        z_nV.mul_(part)
        return each_n
