"""Every distillation loss, written once more in float64 NumPy from its paper, to check the library against.

Independent of the library on purpose: nothing here imports or mirrors it. Logits arrive already divided by
the temperature and no T**2 is applied. p is the teacher's distribution, q the student's. Feature arrays are
channels last. METHODS is the project's own table of formulas.
"""

import math

import numpy as np

# Logits: (..., classes), one value per example or position.


def kl_divergence(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """KL(p || q) = sum_k p (log p - log q). Hinton et al. 2015, 1503.02531.

    The paper writes the cross-entropy; this is that minus the entropy of p, 0 at student == teacher.
    """
    return _kl(_log_softmax(teacher), _log_softmax(student))


def reverse_kl(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """KL(q || p) = sum_k q (log q - log p), mode seeking. Gu et al. 2023 (MiniLLM), 2306.08543."""
    return _kl(_log_softmax(student), _log_softmax(teacher))


def jensen_shannon(student: np.ndarray, teacher: np.ndarray, beta: float = 0.5) -> np.ndarray:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q. GKD, 2023, 2306.13649.

    0 in the formula at beta 0 and 1, where METHODS puts KL(p || q) and KL(q || p): the limits of
    JSD / (beta (1 - beta)), so the value jumps there.
    """
    log_p, log_q = _log_softmax(teacher), _log_softmax(student)
    if beta == 0:
        return _kl(log_p, log_q)
    if beta == 1:
        return _kl(log_q, log_p)
    log_m = _log_mixture(log_p, log_q, beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def skew_kl(student: np.ndarray, teacher: np.ndarray, skew: float = 0.1) -> np.ndarray:
    """KL(p || skew p + (1 - skew) q). Ko et al. 2024 (DistiLLM), 2402.03898."""
    log_p, log_q = _log_softmax(teacher), _log_softmax(student)
    return _kl(log_p, _log_mixture(log_p, log_q, skew))


def skew_reverse_kl(student: np.ndarray, teacher: np.ndarray, skew: float = 0.1) -> np.ndarray:
    """KL(q || skew q + (1 - skew) p). Ko et al. 2024 (DistiLLM), 2402.03898."""
    log_p, log_q = _log_softmax(teacher), _log_softmax(student)
    return _kl(log_q, _log_mixture(log_q, log_p, skew))


def token_relations(student: np.ndarray, teacher: np.ndarray, heads: int = 1) -> np.ndarray:
    """mean_a KL of softmax(x_a x_a' / sqrt(d)), row by row. Wang et al. 2020 (MiniLMv2), 2012.15828."""

    def relations(x):
        x = _double(x).reshape(len(x), -1, heads, x.shape[-1] // heads)
        return _log_softmax(np.einsum("btad,bsad->abts", x, x) / np.sqrt(x.shape[-1]))

    return np.mean(_kl(relations(teacher), relations(student)), axis=0).reshape(student.shape[:-1])


def decoupled_kl(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray,
    target_weight: float = 1.0,
    non_target_weight: float = 8.0,
) -> np.ndarray:
    """a TCKD + b NCKD: KL of (p[y], 1 - p[y]), KL of the softmaxes over k != y. DKD, 2022, 2203.08679.

    KL(p || q) = TCKD + (1 - p[y]) NCKD. b is tuned per pair of models; 8 is one CIFAR-100 pair.
    """
    target = kl_divergence(_target_against_rest(student, labels), _target_against_rest(teacher, labels))
    non_target = kl_divergence(_without_target(student, labels), _without_target(teacher, labels))
    return target_weight * target + non_target_weight * non_target


def normalized_kl(
    student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, non_target_weight: float = 1.5
) -> np.ndarray:
    """-p[y] log q[y] - g sum_{k != y} p^ log q^, both renormalised without y. NKD, 2023, 2303.13005.

    A cross-entropy, so not 0 at student == teacher. The paper softens the second part only; here both
    parts see the same, already softened logits.
    """
    target = -np.exp(_pick(_log_softmax(teacher), labels)) * _pick(_log_softmax(student), labels)
    log_p = _log_softmax(_without_target(teacher, labels))
    log_q = _log_softmax(_without_target(student, labels))
    return target - non_target_weight * np.sum(np.exp(log_p) * log_q, axis=-1)


def enhanced_target(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, power: float = 1.5) -> np.ndarray:
    """sum_k -((p_k + [k = y])**g - [k = y]) log q_k. OFA-KD, 2023, 2310.19444, as in the authors' code."""
    is_label = np.arange(student.shape[-1]) == np.asarray(labels)[..., None]
    return np.sum(-((np.exp(_log_softmax(teacher)) + is_label) ** power - is_label) * _log_softmax(student), axis=-1)


def inter_class_relation(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """1 - Pearson(q, p) over the classes of each example. DIST, 2022, 2205.10536.

    Without the released code's 1e-8 in the denominator; the correlation with a constant is taken as 0.
    """
    return 1 - _pearson(_softmax(student), _softmax(teacher))


def intra_class_relation(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Scalar; (B, K): mean_k (1 - Pearson(q[:, k], p[:, k])) over the batch. DIST, 2022, 2205.10536.

    Without the released code's 1e-8 in the denominator; the correlation with a constant is taken as 0.
    """
    return np.mean(1 - _pearson(_softmax(student).T, _softmax(teacher).T))


def class_correlation(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Scalar; (B, K): ||P_t' P_t - P_s' P_s||_F^2 / K, of (K, K) matrices. MLKD, Jin et al., CVPR 2023."""
    p, q = _softmax(teacher), _softmax(student)
    return np.sum((p.T @ p - q.T @ q) ** 2) / p.shape[1]


def batch_correlation(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Scalar; (B, K): ||P_t P_t' - P_s P_s'||_F^2 / B, of (B, B) matrices. MLKD, Jin et al., CVPR 2023."""
    p, q = _softmax(teacher), _softmax(student)
    return np.sum((p @ p.T - q @ q.T) ** 2) / p.shape[0]


def transformed_teacher(
    student: np.ndarray, teacher: np.ndarray, power: float = 0.1, weighted: bool = False
) -> np.ndarray:
    """KL(p**g / sum p**g || q); weighted: times sum_k p_k**g per example. TTM, WTTM, 2024, 2402.11148.

    p**g / sum p**g is softmax(g z_t): only the teacher is softened, the student belongs at T = 1.
    """
    log_powered = power * _log_softmax(teacher)
    loss = _kl(_log_softmax(log_powered), _log_softmax(student))
    return np.exp(_logsumexp(log_powered)) * loss if weighted else loss


def universal_logits(student: np.ndarray, teacher: np.ndarray, top_k: int | None = None) -> np.ndarray:
    """sum_r |p_(r) - q_(r)| of the sorted probabilities, the shorter filled with 0. Boizard et al. 2024, 2402.12030.

    Behind the first top_k, one more number on each side: the sum of the rest.
    """
    p, q = (-np.sort(-np.exp(_log_softmax(z)), axis=-1) for z in (teacher, student))
    classes = max(p.shape[-1], q.shape[-1])
    p, q = (np.pad(z, [(0, 0)] * (z.ndim - 1) + [(0, classes - z.shape[-1])]) for z in (p, q))
    if top_k is not None:
        p, q = (np.append(z[..., :top_k], np.sum(z[..., top_k:], axis=-1, keepdims=True), axis=-1) for z in (p, q))
    return np.sum(np.abs(p - q), axis=-1)


def hard_label(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """-log softmax(s)[argmax t], equation (3) of DeiT."""
    chosen = np.argmax(_double(teacher), axis=-1)
    return -np.take_along_axis(_log_softmax(_double(student)), chosen[..., None], axis=-1)[..., 0]


def binary_kl(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean_k [P log(P / Q) + (1 - P) log((1 - P) / (1 - Q))], P = sigmoid(z_t), Q = sigmoid(z_s).

    Per-label KD, of no one paper; the mean over the last axis is METHODS's choice.
    """
    student, teacher = _double(student), _double(teacher)
    on = np.exp(_log_sigmoid(teacher)) * (_log_sigmoid(teacher) - _log_sigmoid(student))
    off = np.exp(_log_sigmoid(-teacher)) * (_log_sigmoid(-teacher) - _log_sigmoid(-student))
    return np.mean(on + off, axis=-1)


def standardize(logits: np.ndarray) -> np.ndarray:
    """(z - mean) / (std + 1e-7) over the classes. Sun et al. 2024 (LSKD), 2403.01427.

    The unbiased standard deviation (n - 1) and the 1e-7 follow METHODS.
    """
    logits = _double(logits)
    centred = logits - np.mean(logits, axis=-1, keepdims=True)
    return centred / (np.std(logits, axis=-1, ddof=1, keepdims=True) + 1e-7)


def l2_normalize(x: np.ndarray) -> np.ndarray:
    """x / ||x||_2 over the last axis; a zero vector stays zero."""
    return _unit(_double(x))


# Regression: (..., values), one value per example or position.


def squared_error(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean_d (s - t)**2. Ba and Caruana 2014, 1312.6184; FitNets, 2014, 1412.6550.

    Both papers have 1/2 and the sum over d; the mean without 1/2 is METHODS's.
    """
    return np.mean((_double(student) - _double(teacher)) ** 2, axis=-1)


def absolute_error(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean_d |s - t|."""
    return np.mean(np.abs(_double(student) - _double(teacher)), axis=-1)


def scale_decoupled_kl(student: np.ndarray, teacher: np.ndarray, complementary_weight: float = 2.0) -> np.ndarray:
    """(sum over consistent cells of KL + beta * sum over complementary ones) / cells. Wei et al. 2024, 2403.13512.

    A cell is consistent where the teacher's top class is that of the first cell, the whole image.
    """
    found = np.zeros(len(student))
    for index, (ours, theirs) in enumerate(zip(_double(student), _double(teacher), strict=True)):
        consistent = [cell for cell in range(len(theirs)) if theirs[cell].argmax() == theirs[0].argmax()]
        values = [float(kl_divergence(one, other)) for one, other in zip(ours, theirs, strict=True)]
        agreeing = sum(values[cell] for cell in consistent)
        found[index] = (agreeing + complementary_weight * (sum(values) - agreeing)) / len(values)
    return found


def foreground_kl(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """sum_a S_a sum_k KL(Bernoulli(P) || Bernoulli(Q)) / sum_a S_a, S_a = max_k P_ak. Du et al. 2021, 2111.00674.

    FRS writes the cross-entropy; this is that minus the entropies of P, 0 at student == teacher. Each anchor is taken
    as a position of the paper's, with the labels as its channels.
    """
    student, teacher = _double(student), _double(teacher)
    total = weights = 0.0
    for s, t in zip(student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1]), strict=True):
        p = 1.0 / (1.0 + np.exp(-t))
        total += p.max() * np.sum(p * (_log_sigmoid(t) - _log_sigmoid(s)))
        total += p.max() * np.sum((1.0 - p) * (_log_sigmoid(-t) - _log_sigmoid(-s)))
        weights += p.max()
    return np.asarray(total / weights)


def foreground_huber(student: np.ndarray, teacher: tuple[np.ndarray, np.ndarray], threshold: float = 0.5) -> np.ndarray:
    """sum_a w_a mean_k smooth L1(s_ak - t_ak) / sum_a w_a, w_a = max_k P_ak where above the threshold, else 0.

    Smooth L1 is that of Girshick 2015, 1504.08083; the weights are the library's own.
    """
    boxes, logits = (_double(each) for each in teacher)
    total = weights = 0.0
    for index in np.ndindex(boxes.shape[:-1]):
        score = 1.0 / (1.0 + np.exp(-logits[index].max()))
        if score > threshold:
            error = np.abs(_double(student)[index] - boxes[index])
            total += score * np.mean(np.where(error < 1.0, 0.5 * error**2, error - 0.5))
            weights += score
    return np.asarray(total / weights if weights else 0.0)


def map_correlation(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean_c mean_i (z_s - z_t)**2 / 2, z standardised over batch and positions. Cao et al. 2022, 2207.02039.

    1 - Pearson's correlation of channel c; of a constant channel z is 0.
    """
    sides = []
    for each in (student, teacher):
        rows = _double(each).reshape(-1, each.shape[-1])
        deviation = np.std(rows, axis=0)
        varies = np.ptp(rows, axis=0) > 0
        sides.append(np.where(varies, (rows - np.mean(rows, axis=0)) / np.where(varies, deviation, 1.0), 0.0))
    return np.asarray(np.mean((sides[0] - sides[1]) ** 2) / 2)


def huber_error(student: np.ndarray, teacher: np.ndarray, delta: float = 1.0) -> np.ndarray:
    """mean_d of 0.5 e**2 where |e| <= delta, else delta |e| - 0.5 delta**2. Huber 1964."""
    return np.mean(_huber(_double(student) - _double(teacher), delta), axis=-1)


def teacher_bounded(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """e_s if e_s + margin > e_t else 0, e = ||. - labels||^2 over the last axis. Chen et al., NeurIPS 2017.

    The loss stops once the student is better by the margin; METHODS words the margin the other way.
    """
    student_error = np.sum((_double(student) - _double(labels)) ** 2, axis=-1)
    teacher_error = np.sum((_double(teacher) - _double(labels)) ** 2, axis=-1)
    return np.where(student_error + margin > teacher_error, student_error, 0.0)


# Features: (batch, ..., channels).


def attention_transfer(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean_i (Q_s / ||Q_s|| - Q_t / ||Q_t||)_i**2, Q = mean_c f_c**2 flattened. AT, 2016, 1612.03928.

    The paper takes the unsquared norm; squares and mean are METHODS and the authors' code. Features are
    pooled before they are squared (left open by METHODS).
    """
    student, teacher = _match_sizes(student, teacher)
    student_map = _unit(_flatten(np.mean(student**2, axis=-1)))
    teacher_map = _unit(_flatten(np.mean(teacher**2, axis=-1)))
    return np.mean((student_map - teacher_map) ** 2, axis=-1)


def nst(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean k(t, t') + mean k(s, s') - 2 mean k(s, t), k(x, y) = (x . y)**2. NST, 2017, 1707.01219.

    Over all pairs of channel maps, each normalised over the positions. The paper puts 1/2 outside.
    """
    student, teacher = _match_sizes(student, teacher)
    losses = []
    for s, t in zip(_unit(_channel_maps(student)), _unit(_channel_maps(teacher)), strict=True):
        losses.append(np.mean((t @ t.T) ** 2) + np.mean((s @ s.T) ** 2) - 2 * np.mean((s @ t.T) ** 2))
    return np.array(losses)


def fsp(student: tuple[np.ndarray, np.ndarray], teacher: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """mean_ij (G_s - G_t)_ij**2, G_ij = sum_hw first_hwi last_hwj / (H W). FSP, Yim et al., CVPR 2017.

    Each argument is (first map, last map). The paper sums over i, j; the mean is METHODS's.
    """
    return np.mean((_flow(*student) - _flow(*teacher)) ** 2, axis=(1, 2))


def channel_wise(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean_c KL(softmax_i t_ic || softmax_i s_ic), i over the positions. CWD, 2020, 2011.13256."""
    return np.mean(kl_divergence(_channel_maps(student), _channel_maps(teacher)), axis=-1)


def hierarchical_pooling(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """sum_l w_l mean (pool_l(s) - pool_l(t))**2 / sum_l w_l, full size and l = 4, 2, 1. 2021, 2104.09044.

    ReviewKD's HCL. Levels l >= height are skipped without halving the weight (authors' code): it is
    1, 1/2, 1/4... over the levels used. METHODS leaves this open.
    """
    student, teacher = _double(student), _double(teacher)
    weight, total = 1.0, 1.0
    loss = np.mean((student - teacher) ** 2, axis=(1, 2, 3))
    for size in (4, 2, 1):
        if size >= student.shape[1]:
            continue
        weight /= 2
        total += weight
        difference = _average_pool(student, size, size) - _average_pool(teacher, size, size)
        loss = loss + weight * np.mean(difference**2, axis=(1, 2, 3))
    return loss / total


def cosine(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """1 - s . t / (||s|| ||t||) over the last axis; 1 where either is 0. DistilBERT, 2019, 1910.01108."""
    return 1 - np.sum(l2_normalize(student) * l2_normalize(teacher), axis=-1)


def standardized_huber(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """mean_c h(s_c - z_c), z the teacher's mean over positions, standardised over channels. Miles et al., 2024."""
    t = _double(teacher).reshape(len(teacher), -1, teacher.shape[-1]).mean(1)
    z = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
    return _huber(_double(student) - z).mean(-1)


def variational_information(student: np.ndarray, teacher: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """mean_c 0.5 ((mu - f)**2 / v + log v), mu the mapped student, v of (C,). VID, 2019, 1904.05835.

    The paper sums over the channels, the mean is METHODS's; 0.5 log(2 pi) is left out. Can be negative.
    """
    variance = _double(variance)
    return np.mean(0.5 * ((_double(student) - _double(teacher)) ** 2 / variance + np.log(variance)), axis=-1)


def standardized_features(
    student: np.ndarray,
    teacher: np.ndarray,
    mean: np.ndarray | None = None,
    variance: np.ndarray | None = None,
    cosine_share: float = 0.9,
) -> np.ndarray:
    """a (1 - cos(s, z)) + (1 - a) mean_c smooth_l1(s - z), z = (t - mean) / std. AM-RADIO, 2023, 2312.06709.

    Standardised by channel as in Theia, 2024, 2407.20179; a channel without variance is 0.
    """
    z = _double(teacher) if mean is None else _double(teacher) - _double(mean)
    if variance is not None:
        deviation = np.sqrt(_double(variance))
        z = np.divide(z, deviation, out=np.zeros_like(z), where=np.broadcast_to(deviation > 0, z.shape))
    distance = np.abs(_double(student) - z)
    smooth = np.where(distance < 1, 0.5 * distance**2, distance - 0.5)
    return cosine_share * cosine(student, z) + (1 - cosine_share) * np.mean(smooth, axis=-1)


def masked_generation(
    student: np.ndarray, teacher: np.ndarray, first: list[np.ndarray], second: list[np.ndarray]
) -> np.ndarray:
    """sum_hwc (G(s) - t)**2, G = conv3x3(relu(conv3x3(.))), nothing masked. MGD, 2022, 2205.01529."""
    hidden = np.maximum(_convolved(_double(student), *first), 0.0)
    return np.sum((_convolved(hidden, *second) - _double(teacher)) ** 2, axis=(1, 2, 3))


def masked_token_generation(
    student: np.ndarray,
    teacher: np.ndarray,
    first: list[np.ndarray],
    second: list[np.ndarray],
    token: np.ndarray,
    mask: np.ndarray | None = None,
    share: float = 1.0,
) -> np.ndarray:
    """sum_hwc m (G(x) - t)**2 / share, x the student or, where m is 1, the token. ViTKD, 2022, 2209.02432.

    Without a mask: of the student as it is, over all positions.
    """
    m = np.zeros((*student.shape[:3], 1)) if mask is None else _double(mask)
    x = np.where(m == 1, _double(token), _double(student))
    hidden = np.maximum(_convolved(x, *first), 0.0)
    squared = (_convolved(hidden, *second) - _double(teacher)) ** 2
    return np.sum(squared if mask is None else m * squared, axis=(1, 2, 3)) / share


def centered_cross_entropy(
    student: np.ndarray,
    teacher: np.ndarray,
    center: np.ndarray,
    student_temperature: float,
    teacher_temperature: float,
) -> np.ndarray:
    """-sum_c p_c log q_c, p of (t - center) / T_t, q of s / T_s. DINO, 2021, 2104.14294."""
    p = np.exp(_log_softmax((_double(teacher) - center) / teacher_temperature))
    return -np.sum(p * _log_softmax(_double(student) / student_temperature), axis=-1)


def _convolved(maps: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 x 3, with a border of zeros."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = maps.shape[1:3]
    places = [(i, j) for i in range(3) for j in range(3)]
    return bias + sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in places)


# Relations between the examples of a batch: (batch, ...), flattened to (batch, features).


def rkd_distance(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Scalar: mean_ij huber(d_s / mu_s - d_t / mu_t)_ij, d Euclidean distances. RKD, 2019, 1904.05068.

    mu is the mean over the B (B - 1) pairs i != j, coincident ones too (paper). The paper sums the loss;
    the mean over all B**2 entries, zero diagonal counted, is the authors' code.
    """
    return np.mean(_huber(_relative_distances(student) - _relative_distances(teacher)))


def rkd_angle(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Scalar: mean_ijk huber(cos_s - cos_t), the angle at j between i and k. RKD, 2019, 1904.05068.

    The paper sums over distinct triples; as in the authors' code, i == j, k == j and i == k contribute 0
    and count among the B**3.
    """
    return np.mean(_huber(_angle_cosines(student) - _angle_cosines(teacher)))


def similarity_preserving(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Row i: mean_j (G_s - G_t)_ij**2, G = F F' with L2-normalised rows. Tung and Mori 2019, 1907.09682."""
    return np.mean((_gram(student) - _gram(teacher)) ** 2, axis=-1)


def pkt(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Row i: mean_j t log((t + e) / (s + e)), s, t row-normalised (cos + 1) / 2. PKT, 2018, 1803.10837.

    e = 1e-7. The paper sums over i != j; METHODS and the authors' code average over all B**2.
    """
    s, t = _neighbour_probabilities(student), _neighbour_probabilities(teacher)
    return np.mean(t * np.log((t + 1e-7) / (s + 1e-7)), axis=-1)


def correlation_congruence(student: np.ndarray, teacher: np.ndarray, gamma: float = 0.4, order: int = 2) -> np.ndarray:
    """Row i: mean_j (K_s - K_t)_ij**2, K = exp(-2 g) sum_{n <= order} (2 g)**n / n! (x . y)**n.

    The Taylor form of exp(-g ||x - y||**2) for unit x, y. CC, 2019, 1904.01802. METHODS has no formula.
    """
    s, t = _rbf_correlation(student, gamma, order), _rbf_correlation(teacher, gamma, order)
    return np.mean((s - t) ** 2, axis=-1)


def contrastive(student: np.ndarray, teacher: np.ndarray, similarity_temperature: float = 0.07) -> np.ndarray:
    """-log softmax_j(s_i . t_j / similarity_temperature)[i], s and t unit. CRD, 2019, 1910.10699.

    InfoNCE with the batch as negatives, student to teacher; the paper has a binary NCE loss against a
    memory bank, in both directions.
    """
    similarity = l2_normalize(_flatten(_double(student))) @ l2_normalize(_flatten(_double(teacher))).T
    return -np.diagonal(_log_softmax(similarity / similarity_temperature))


# Helpers: probabilities, in log space so that logits of +-200 are exact.


def _double(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)


def _logsumexp(logits: np.ndarray) -> np.ndarray:
    largest = np.max(logits, axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(logits - largest), axis=-1)) + largest[..., 0]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = _double(logits)
    logits = logits - np.max(logits, axis=-1, keepdims=True)
    return logits - _logsumexp(logits)[..., None]


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(_log_softmax(logits))


def _log_sigmoid(logits: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -logits)


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)


def _log_mixture(log_a: np.ndarray, log_b: np.ndarray, weight: float) -> np.ndarray:
    """log(weight a + (1 - weight) b), also for a weight of 0 or 1."""
    if weight in (0, 1):
        return log_a if weight == 1 else log_b
    return np.logaddexp(np.log(weight) + log_a, np.log1p(-weight) + log_b)


def _pick(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, np.asarray(labels)[..., None], axis=-1)[..., 0]


def _without_target(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The logits of the classes other than the label: (..., classes - 1)."""
    logits = _double(logits)
    rows = logits.reshape(-1, logits.shape[-1])
    kept = [np.delete(row, label) for row, label in zip(rows, np.ravel(labels), strict=True)]
    return np.array(kept).reshape(*logits.shape[:-1], logits.shape[-1] - 1)


def _target_against_rest(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Two logits, the label's and the others' logsumexp, whose softmax is (p[y], 1 - p[y]): (..., 2)."""
    return np.stack([_pick(_double(logits), labels), _logsumexp(_without_target(logits, labels))], axis=-1)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sum(_centred_unit(x) * _centred_unit(y), axis=-1)


def _centred_unit(x: np.ndarray) -> np.ndarray:
    """Centred and of length 1; zero where x is constant up to the rounding of its mean."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    rounding = 1e-12 * np.max(np.abs(x), axis=-1, keepdims=True)
    return _unit(np.where(np.max(np.abs(centred), axis=-1, keepdims=True) > rounding, centred, 0.0))


# Helpers: features.


def _unit(x: np.ndarray) -> np.ndarray:
    """x / ||x|| over the last axis, zero for zero; scaled first, so that tiny squares do not underflow."""
    largest = np.max(np.abs(x), axis=-1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt(np.sum(x**2, axis=-1, keepdims=True))
    return x / np.where(norm > 0, norm, 1.0)


def _huber(error: np.ndarray, delta: float = 1.0) -> np.ndarray:
    size = np.abs(error)
    return np.where(size <= delta, 0.5 * size**2, delta * size - 0.5 * delta**2)


def _flatten(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0], -1)


def _channel_maps(x: np.ndarray) -> np.ndarray:
    """(batch, ..., channels) as (batch, channels, positions)."""
    x = _double(x)
    return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(0, 2, 1)


def _average_pool(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Adaptive average pooling: cell i averages floor(i H / height) up to ceil((i + 1) H / height)."""
    pooled = np.zeros((x.shape[0], height, width, x.shape[3]))
    for i in range(height):
        top, bottom = math.floor(i * x.shape[1] / height), math.ceil((i + 1) * x.shape[1] / height)
        for j in range(width):
            left, right = math.floor(j * x.shape[2] / width), math.ceil((j + 1) * x.shape[2] / width)
            pooled[:, i, j] = np.mean(x[:, top:bottom, left:right], axis=(1, 2))
    return pooled


def _match_sizes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps at the smaller height and width; a map that has them already is unchanged."""
    a, b = _double(a), _double(b)
    height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])
    return _average_pool(a, height, width), _average_pool(b, height, width)


def _flow(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Mean over the positions of first_i last_j: (batch, first channels, last channels)."""
    first, last = _match_sizes(first, last)
    return np.einsum("bhwi,bhwj->bij", first, last) / (first.shape[1] * first.shape[2])


# Helpers: relations.


def _relative_distances(x: np.ndarray) -> np.ndarray:
    """Pairwise distances over their mean off the diagonal; all 0 where all examples coincide."""
    x = _flatten(_double(x))
    distances = np.sqrt(np.sum((x[:, None] - x[None, :]) ** 2, axis=-1))
    pairs = len(x) * (len(x) - 1)
    mean = np.sum(distances) / pairs if pairs else 0.0
    return distances / mean if mean > 0 else distances


def _angle_cosines(x: np.ndarray) -> np.ndarray:
    """[j, i, k] = cosine of the angle at example j between i and k; 0 where i or k coincides with j."""
    x = _flatten(_double(x))
    cosines = np.zeros((len(x), len(x), len(x)))
    for j in range(len(x)):
        directions = _unit(x - x[j])
        cosines[j] = directions @ directions.T
    return cosines


def _gram(x: np.ndarray) -> np.ndarray:
    x = _flatten(_double(x))
    return _unit(x @ x.T)


def _neighbour_probabilities(x: np.ndarray) -> np.ndarray:
    x = _unit(_flatten(_double(x)))
    similarity = (x @ x.T + 1) / 2
    return similarity / np.sum(similarity, axis=1, keepdims=True)


def _rbf_correlation(x: np.ndarray, gamma: float, order: int) -> np.ndarray:
    x = _unit(_flatten(_double(x)))
    inner = x @ x.T
    series = sum((2 * gamma) ** n / math.factorial(n) * inner**n for n in range(order + 1))
    return math.exp(-2 * gamma) * series
