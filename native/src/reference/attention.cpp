// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
/** Causal attention with grouped heads, sliding window and several sequences; softmax row by row. */
#include <algorithm>
#include <cmath>
#include <limits>

#include "reference.h"

namespace q4j::reference {

namespace {

/** The keys a query sees: [first, last) of its sequence. */
struct KeyRange {
  int64_t first;
  int64_t last;
};

KeyRange visible_keys(int64_t query, int64_t queries, int64_t keys, int32_t window) {
  const int64_t last = std::min(query + (keys - queries) + 1, keys);
  const int64_t first = window > 0 ? std::max<int64_t>(last - window, 0) : 0;
  return {first, std::max(first, last)};
}

template <typename T>
double dot(const T* a, const T* b, int32_t n) {
  double sum = 0.0;
  for (int32_t i = 0; i < n; ++i) sum += static_cast<double>(to_f32(a[i])) * static_cast<double>(to_f32(b[i]));
  return sum;
}

}  // namespace

q4j_status attention_forward_workspace_size(q4j_pack_context*, const q4j_attention_forward_params* p, int64_t* bytes) {
  Scratch scratch(nullptr);
  scratch.take<double>(p->max_k);     // probabilities of one query
  scratch.take<double>(p->head_dim);  // one output row
  *bytes = scratch.used();
  return Q4J_OK;
}

q4j_status attention_forward(q4j_pack_context*, const q4j_attention_forward_params* p) {
  Scratch scratch(p->workspace);
  double* probability = scratch.take<double>(p->max_k);
  double* row = scratch.take<double>(p->head_dim);
  const int64_t total_queries = p->cu_q[p->sequences];
  float* lse = static_cast<float*>(p->lse);
  const double scale = static_cast<double>(p->scale);
  with_type(p->dtype, [&](auto type) {
    using T = decltype(type);
    for (int32_t s = 0; s < p->sequences; ++s) {
      const int64_t queries = p->cu_q[s + 1] - p->cu_q[s];
      const int64_t keys = p->cu_k[s + 1] - p->cu_k[s];
      for (int32_t h = 0; h < p->heads; ++h) {
        const int32_t kv_head = h / (p->heads / p->kv_heads);
        const T* k = static_cast<const T*>(p->k) + p->cu_k[s] * p->k_token_stride + kv_head * p->k_head_stride;
        const T* v = static_cast<const T*>(p->v) + p->cu_k[s] * p->v_token_stride + kv_head * p->v_head_stride;
        for (int64_t i = 0; i < queries; ++i) {
          const int64_t token = p->cu_q[s] + i;
          const T* q = static_cast<const T*>(p->q) + token * p->q_token_stride + h * p->q_head_stride;
          T* out = static_cast<T*>(p->out) + token * p->out_token_stride + h * p->out_head_stride;
          const KeyRange range = visible_keys(i, queries, keys, p->window);
          double largest = -std::numeric_limits<double>::infinity();
          for (int64_t j = range.first; j < range.last; ++j) {
            probability[j] = scale * dot(q, k + j * p->k_token_stride, p->head_dim);
            if (probability[j] > largest || std::isnan(probability[j])) largest = probability[j];
          }
          double sum = 0.0;
          std::fill(row, row + p->head_dim, 0.0);
          for (int64_t j = range.first; j < range.last; ++j) {
            const double e = std::exp(probability[j] - largest);
            sum += e;
            for (int32_t d = 0; d < p->head_dim; ++d) row[d] += e * static_cast<double>(to_f32(v[j * p->v_token_stride + d]));
          }
          const bool blind = range.first == range.last;
          for (int32_t d = 0; d < p->head_dim; ++d) out[d] = rounded<T>(blind ? 0.0 : row[d] / sum);
          if (lse != nullptr) {
            lse[h * total_queries + token] =
                blind ? -std::numeric_limits<float>::infinity() : static_cast<float>(largest + std::log(sum));
          }
        }
      }
    }
  });
  return Q4J_OK;
}

q4j_status attention_backward_workspace_size(q4j_pack_context*, const q4j_attention_backward_params* p, int64_t* bytes) {
  const q4j_attention_forward_params& f = *p->forward;
  Scratch scratch(nullptr);
  scratch.take<double>(static_cast<int64_t>(f.max_k) * f.head_dim);  // dk of one sequence and head
  scratch.take<double>(static_cast<int64_t>(f.max_k) * f.head_dim);  // dv
  scratch.take<double>(f.head_dim);                                  // one row of dq
  *bytes = scratch.used();
  return Q4J_OK;
}

/**
 * p = exp(scale q.k - lse),  dp = dout.v,  ds = p (dp - dout.out),  dq = scale ds k,  dk = scale ds^T q,  dv = p^T dout.
 * p comes from the saved lse and dout.out from the saved out, as in FlashAttention-2 (Dao 2023), so that a wrong saved value
 * shows.
 */
q4j_status attention_backward(q4j_pack_context*, const q4j_attention_backward_params* p) {
  const q4j_attention_forward_params& f = *p->forward;
  const int32_t dim = f.head_dim;
  Scratch scratch(p->workspace);
  double* dk_sum = scratch.take<double>(static_cast<int64_t>(f.max_k) * dim);
  double* dv_sum = scratch.take<double>(static_cast<int64_t>(f.max_k) * dim);
  double* dq_sum = scratch.take<double>(dim);
  const int64_t total_queries = f.cu_q[f.sequences];
  const float* lse = static_cast<const float*>(f.lse);
  const double scale = static_cast<double>(f.scale);
  const int32_t group = f.heads / f.kv_heads;
  with_type(f.dtype, [&](auto type) {
    using T = decltype(type);
    for (int32_t s = 0; s < f.sequences; ++s) {
      const int64_t queries = f.cu_q[s + 1] - f.cu_q[s];
      const int64_t keys = f.cu_k[s + 1] - f.cu_k[s];
      for (int32_t kv_head = 0; kv_head < f.kv_heads; ++kv_head) {
        const T* k = static_cast<const T*>(f.k) + f.cu_k[s] * f.k_token_stride + kv_head * f.k_head_stride;
        const T* v = static_cast<const T*>(f.v) + f.cu_k[s] * f.v_token_stride + kv_head * f.v_head_stride;
        std::fill(dk_sum, dk_sum + keys * dim, 0.0);
        std::fill(dv_sum, dv_sum + keys * dim, 0.0);
        for (int32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
          for (int64_t i = 0; i < queries; ++i) {
            const int64_t token = f.cu_q[s] + i;
            const T* q = static_cast<const T*>(f.q) + token * f.q_token_stride + h * f.q_head_stride;
            const T* out = static_cast<const T*>(f.out) + token * f.out_token_stride + h * f.out_head_stride;
            const T* dout = static_cast<const T*>(p->dout) + token * p->dout_token_stride + h * p->dout_head_stride;
            T* dq = static_cast<T*>(p->dq) + token * p->dq_token_stride + h * p->dq_head_stride;
            const double delta = dot(dout, out, dim);
            const double row_lse = static_cast<double>(lse[h * total_queries + token]);
            std::fill(dq_sum, dq_sum + dim, 0.0);
            const KeyRange range = visible_keys(i, queries, keys, f.window);
            for (int64_t j = range.first; j < range.last; ++j) {
              const T* key = k + j * f.k_token_stride;
              const double probability = std::exp(scale * dot(q, key, dim) - row_lse);
              const double ds = scale * probability * (dot(dout, v + j * f.v_token_stride, dim) - delta);
              for (int32_t d = 0; d < dim; ++d) {
                dq_sum[d] += ds * static_cast<double>(to_f32(key[d]));
                dk_sum[j * dim + d] += ds * static_cast<double>(to_f32(q[d]));
                dv_sum[j * dim + d] += probability * static_cast<double>(to_f32(dout[d]));
              }
            }
            for (int32_t d = 0; d < dim; ++d) dq[d] = rounded<T>(dq_sum[d]);
          }
        }
        for (int64_t j = 0; j < keys; ++j) {
          const int64_t token = f.cu_k[s] + j;
          T* dk = static_cast<T*>(p->dk) + token * p->dk_token_stride + kv_head * p->dk_head_stride;
          T* dv = static_cast<T*>(p->dv) + token * p->dv_token_stride + kv_head * p->dv_head_stride;
          for (int32_t d = 0; d < dim; ++d) {
            dk[d] = rounded<T>(dk_sum[j * dim + d]);
            dv[d] = rounded<T>(dv_sum[j * dim + d]);
          }
        }
      }
    }
  });
  return Q4J_OK;
}

}  // namespace q4j::reference
