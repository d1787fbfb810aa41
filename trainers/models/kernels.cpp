// The hot path of training and evaluation, fused. Plain C functions over float32 arrays, called through trainers/models/native.py;
// trainers/models/fused.py, attention.py, losses.py and evaluate.py say in plain torch what each of them computes, and tests hold them to it.
//
// Every loop is split over `threads` in a fixed way, so that the same inputs and thread count give the same bits.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <vector>

namespace {

constexpr int64_t LANES = 16;

// Whole vectors that hold `count` numbers, in numbers.
inline int64_t whole(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

struct Range {
    int64_t begin, end;
};

// The share of thread `part` of `parts` in `count` things.
Range share(int64_t count, int part, int parts) { return {count * part / parts, count * (part + 1) / parts}; }

// The sequences of thread `part`, so that all threads have about the same number of tokens.
Range sequences(const int64_t *offsets, int64_t count, int part, int parts) {
    auto first = [&](int p) {
        const int64_t wanted = offsets[count] * p / parts;
        int64_t low = 0, high = count;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            offsets[middle] < wanted ? low = middle + 1 : high = middle;
        }
        return low;
    };
    return {first(part), part + 1 == parts ? count : first(part + 1)};
}

// Threads that pay for `count` elements of simple work: waking one costs as much as a hundred thousand of them.
int worth(int64_t count, int threads) { return static_cast<int>(std::min<int64_t>(threads, 1 + count / (1 << 17))); }

// f(i) for every i below `count`, in vectors; f holds copies of what it needs, which the compiler then keeps in registers.
template <class F>
void each(int64_t count, int threads, F f) {
#pragma omp parallel num_threads(worth(count, threads))
    {
        const F own = f;
        const Range mine = share(count, omp_get_thread_num(), omp_get_num_threads());
#pragma omp simd
        for (int64_t i = mine.begin; i < mine.end; i++) own(i);
    }
}

// Whether element `index` of a mask survives dropout, as the factor that it is multiplied with. The bits of a 32-bit
// finaliser (two multiplications) of index and key; a 24-bit number below `limit` drops it.
struct Dropout {
    uint32_t key, limit;
    float scale;
    uint32_t first = 0;  // the number of element 0
    Dropout from(int64_t index) const { return {key, limit, scale, first + static_cast<uint32_t>(index)}; }
    float operator()(int64_t index) const {
        uint32_t x = (first + static_cast<uint32_t>(index)) ^ key;
        x = (x ^ (x >> 16)) * 0x7feb352dU;
        x = (x ^ (x >> 15)) * 0x846ca68bU;
        x ^= x >> 16;
        return (x >> 8) >= limit ? scale : 0.0f;
    }
};

// e^x to about one unit in the last place; not-a-number stays what it is.
inline float exponential(float x) {
    x = 88.0f < x ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float n = std::nearbyintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float dot(const float *a, const float *b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

inline void add_scaled(float *to, const float *from, float factor, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
}

inline float from_bf16(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint16_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

inline float load(const float *p) { return *p; }
inline float load(const uint16_t *p) { return from_bf16(*p); }
inline void store(float *p, float x) { *p = x; }
inline void store(uint16_t *p, float x) { *p = to_bf16(x); }

// ---- attention inside packed sequences ------------------------------------------------------------------------------

// Where queries, keys and values of a head stand in a row of the packed projections.
struct Heads {
    int64_t count, row;              // heads; floats a row
    int64_t key_width, value_width;  // of one head
    int64_t query, key, value;       // columns where the first head's begin
    int64_t key_step, value_step;    // columns from one head to the next
};

// One head of one sequence, its keys and values turned so that vectors run along time.
struct Turned {
    int64_t width;  // tokens, rounded up to whole vectors
    std::vector<float> keys, values;

    void take(const float *rows, const Heads &heads, int64_t head, int64_t tokens) {
        width = whole(tokens);
        turn(keys, rows + heads.key + head * heads.key_step, heads.row, heads.key_width, tokens);
        turn(values, rows + heads.value + head * heads.value_step, heads.row, heads.value_width, tokens);
    }
    void turn(std::vector<float> &to, const float *from, int64_t row, int64_t columns, int64_t tokens) {
        to.assign(columns * width, 0.0f);
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t c = 0; c < columns; c++) to[c * width + t] = from[t * row + c];
    }
};

// products[u] = x . column u of `turned` (columns, width), for whole vectors of u up to `tokens`.
template <int64_t BLOCK>
inline void block_of_products(float *products, const float *x, const float *turned, int64_t columns, int64_t width) {
    float even[BLOCK] = {}, odd[BLOCK] = {};
    for (int64_t c = 0; c + 1 < columns; c += 2) {
        const float *row = turned + c * width, *next = row + width;
#pragma omp simd
        for (int64_t u = 0; u < BLOCK; u++) {
            even[u] += x[c] * row[u];
            odd[u] += x[c + 1] * next[u];
        }
    }
    if (columns % 2) add_scaled(even, turned + (columns - 1) * width, x[columns - 1], BLOCK);
    for (int64_t u = 0; u < BLOCK; u++) products[u] = even[u] + odd[u];
}

inline void products_with(float *products, const float *x, const float *turned, int64_t columns, int64_t width, int64_t tokens) {
    int64_t u = 0;
    for (; u + 2 * LANES < tokens; u += 4 * LANES)
        if (u + 4 * LANES <= width)
            block_of_products<4 * LANES>(products + u, x, turned + u, columns, width);
        else
            break;
    for (; u < tokens; u += LANES) block_of_products<LANES>(products + u, x, turned + u, columns, width);
}

// to (width,) = the sum of weights[u] * rows[u], or that added to it.
template <int64_t BLOCK>
inline void block_of_sums(float *to, const float *weights, const float *rows, int64_t stride, int64_t count, bool add) {
    float sums[BLOCK] = {};
    for (int64_t u = 0; u < count; u++) {
#pragma omp simd
        for (int64_t c = 0; c < BLOCK; c++) sums[c] += weights[u] * rows[u * stride + c];
    }
    for (int64_t c = 0; c < BLOCK; c++) to[c] = add ? to[c] + sums[c] : sums[c];
}

inline void weighted_sum(float *to, const float *weights, const float *rows, int64_t stride, int64_t count, int64_t width, bool add) {
    int64_t c = 0;
    for (; c + 2 * LANES <= width; c += 2 * LANES) block_of_sums<2 * LANES>(to + c, weights, rows + c, stride, count, add);
    for (; c + LANES <= width; c += LANES) block_of_sums<LANES>(to + c, weights, rows + c, stride, count, add);
    for (; c < width; c++) block_of_sums<1>(to + c, weights, rows + c, stride, count, add);
}

// The two kinds of attention. `weigh` turns the products q.k of query t with tokens 0..t into weights; `pull` turns the
// gradient of the weights into that of the products, in place.
struct Softmax {
    const float *bias;  // by distance t - u, or null
    float scale;
    void weigh(float *weights, int64_t t) const {
        const int64_t count = whole(t + 1);
        float factor_of_products = scale;
        if (bias) {
#pragma omp simd
            for (int64_t u = 0; u <= t; u++) weights[u] = weights[u] * scale + bias[t - u];
            factor_of_products = 1.0f;
        }
        for (int64_t u = t + 1; u < count; u++) weights[u] = -INFINITY;
        float peak = -INFINITY;
#pragma omp simd reduction(max : peak)
        for (int64_t u = 0; u < count; u++) peak = weights[u] > peak ? weights[u] : peak;
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t u = 0; u < count; u++) {
            const float x = (weights[u] - peak) * factor_of_products;
            weights[u] = x == -INFINITY ? 0.0f : exponential(x);
            total += weights[u];
        }
        const float factor = 1.0f / total;
#pragma omp simd
        for (int64_t u = 0; u < count; u++) weights[u] *= factor;
    }
    void pull(float *gradient, const float *weights, const float *, int64_t t, float *bias_gradient) const {
        const int64_t count = whole(t + 1);
        const float mean = dot(gradient, weights, count);  // a later token weighs nothing
        if (bias)
            for (int64_t u = 0; u <= t; u++) bias_gradient[t - u] += weights[u] * (gradient[u] - mean);
#pragma omp simd
        for (int64_t u = 0; u < count; u++) gradient[u] = weights[u] * (gradient[u] - mean) * scale;
    }
};

struct Pointwise {
    const float *bias;  // by distance t - u
    float divisor;
    void weigh(float *weights, int64_t t) const {
#pragma omp simd
        for (int64_t u = 0; u <= t; u++) {
            const float x = weights[u] + bias[t - u];
            weights[u] = x * sigmoid(x) / divisor;
        }
    }
    void pull(float *gradient, const float *, const float *products, int64_t t, float *bias_gradient) const {
#pragma omp simd
        for (int64_t u = 0; u <= t; u++) {
            const float x = products[u] + bias[t - u], gate = sigmoid(x);
            gradient[u] *= gate * (1.0f + x * (1.0f - gate)) / divisor;
        }
        for (int64_t u = 0; u <= t; u++) bias_gradient[t - u] += gradient[u];
    }
};

inline void drop_weights(float *weights, const Dropout &dropout, int64_t query, int64_t t, int64_t longest) {
    if (!dropout.limit) return;
#pragma omp simd
    for (int64_t u = 0; u <= t; u++) weights[u] *= dropout(query * longest + t - u);
}

template <class Kind>
void attend(const float *x, const int64_t *offsets, int64_t count, const Heads &heads, const Kind &kind, const Dropout &dropout,
            int64_t longest, float *out, int threads) {
    const int64_t out_row = heads.count * heads.value_width;
#pragma omp parallel num_threads(threads)
    {
        Turned turned;
        std::vector<float> weights(longest + 4 * LANES);
        const Range mine = sequences(offsets, count, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t s = mine.begin; s < mine.end; s++)
            for (int64_t h = 0; h < heads.count; h++) {
                const int64_t first = offsets[s], tokens = offsets[s + 1] - first;
                const float *rows = x + first * heads.row;
                turned.take(rows, heads, h, tokens);
                for (int64_t t = 0; t < tokens; t++) {
                    const float *query = rows + t * heads.row + heads.query + h * heads.key_step;
                    products_with(weights.data(), query, turned.keys.data(), heads.key_width, turned.width, t + 1);
                    kind.weigh(weights.data(), t);
                    drop_weights(weights.data(), dropout, (first + t) * heads.count + h, t, longest);
                    float *to = out + (first + t) * out_row + h * heads.value_width;
                    const float *values = rows + heads.value + h * heads.value_step;
                    weighted_sum(to, weights.data(), values, heads.row, t + 1, heads.value_width, false);
                }
            }
    }
}

// `bias_gradient` (threads, longest) is zeroed by the caller, and null where there is no bias.
template <class Kind>
void attend_backward(const float *x, const int64_t *offsets, int64_t count, const Heads &heads, const Kind &kind,
                     const Dropout &dropout, int64_t longest, const float *out_gradient, float *x_gradient, float *bias_gradient,
                     int threads) {
    const int64_t out_row = heads.count * heads.value_width;
#pragma omp parallel num_threads(threads)
    {
        Turned turned;
        const int64_t room = longest + 4 * LANES;
        std::vector<float> products(room), weights(room), gradient(room);
        float *own_bias = bias_gradient ? bias_gradient + omp_get_thread_num() * longest : nullptr;
        const Range mine = sequences(offsets, count, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t s = mine.begin; s < mine.end; s++)
            for (int64_t h = 0; h < heads.count; h++) {
                const int64_t first = offsets[s], tokens = offsets[s + 1] - first;
                const float *rows = x + first * heads.row;
                float *grads = x_gradient + first * heads.row;
                turned.take(rows, heads, h, tokens);
                for (int64_t t = 0; t < tokens; t++) {
                    const float *query = rows + t * heads.row + heads.query + h * heads.key_step;
                    const float *pull = out_gradient + (first + t) * out_row + h * heads.value_width;
                    products_with(products.data(), query, turned.keys.data(), heads.key_width, turned.width, t + 1);
                    std::memcpy(weights.data(), products.data(), (t + 1) * sizeof(float));
                    kind.weigh(weights.data(), t);
                    products_with(gradient.data(), pull, turned.values.data(), heads.value_width, turned.width, t + 1);
                    const int64_t mask = (first + t) * heads.count + h;
                    drop_weights(gradient.data(), dropout, mask, t, longest);
                    kind.pull(gradient.data(), weights.data(), products.data(), t, own_bias);
                    drop_weights(weights.data(), dropout, mask, t, longest);
                    float *query_gradient = grads + t * heads.row + heads.query + h * heads.key_step;
                    const float *keys = rows + heads.key + h * heads.key_step;
                    weighted_sum(query_gradient, gradient.data(), keys, heads.row, t + 1, heads.key_width, true);
                    float *key_gradient = grads + heads.key + h * heads.key_step;
                    float *value_gradient = grads + heads.value + h * heads.value_step;
                    for (int64_t u = 0; u <= t; u++) {
                        add_scaled(key_gradient + u * heads.row, query, gradient[u], heads.key_width);
                        add_scaled(value_gradient + u * heads.row, pull, weights[u], heads.value_width);
                    }
                }
            }
    }
}

// ---- softmax over rows of scores ------------------------------------------------------------------------------------

// Each row becomes e^(score - peak); peaks and totals (n,) are what is needed to normalise it.
template <class Number>
void exponentials(Number *scores, int64_t n, int64_t width, float *peaks, float *totals, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        Number *row = scores + i * width;
        float peak = -INFINITY;
#pragma omp simd reduction(max : peak)
        for (int64_t v = 0; v < width; v++) {
            const float x = load(row + v);
            peak = x > peak ? x : peak;
        }
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t v = 0; v < width; v++) {
            const float x = exponential(load(row + v) - peak);
            store(row + v, x);
            total += x;
        }
        peaks[i] = peak;
        totals[i] = total;
    }
}

}  // namespace

extern "C" {

void attend_softmax(const float *x, const int64_t *offsets, int64_t count, const Heads *heads, const float *bias, float scale,
                    Dropout dropout, int64_t longest, float *out, int threads) {
    attend(x, offsets, count, *heads, Softmax{bias, scale}, dropout, longest, out, threads);
}

void attend_softmax_backward(const float *x, const int64_t *offsets, int64_t count, const Heads *heads, const float *bias, float scale,
                             Dropout dropout, int64_t longest, const float *out_gradient, float *x_gradient, float *bias_gradient,
                             int threads) {
    attend_backward(x, offsets, count, *heads, Softmax{bias, scale}, dropout, longest, out_gradient, x_gradient, bias_gradient,
                    threads);
}

void attend_pointwise(const float *x, const int64_t *offsets, int64_t count, const Heads *heads, const float *bias, float divisor,
                      Dropout dropout, int64_t longest, float *out, int threads) {
    attend(x, offsets, count, *heads, Pointwise{bias, divisor}, dropout, longest, out, threads);
}

void attend_pointwise_backward(const float *x, const int64_t *offsets, int64_t count, const Heads *heads, const float *bias,
                               float divisor, Dropout dropout, int64_t longest, const float *out_gradient, float *x_gradient,
                               float *bias_gradient, int threads) {
    attend_backward(x, offsets, count, *heads, Pointwise{bias, divisor}, dropout, longest, out_gradient, x_gradient, bias_gradient,
                    threads);
}

// out = dropout(items[rows] * scale + positions[recency]), or without positions; tables have `width` columns.
void embed(const float *items, const int64_t *rows, const float *positions, const int64_t *recency, int64_t n, int64_t width,
           float scale, Dropout dropout, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(n * width, threads))
    for (int64_t i = 0; i < n; i++) {
        const float *item = items + rows[i] * width, *position = positions ? positions + recency[i] * width : item;
        const float share = positions ? 1.0f : 0.0f;
        float *to = out + i * width;
        const Dropout own = dropout.from(i * width);
#pragma omp simd
        for (int64_t c = 0; c < width; c++) to[c] = (item[c] * scale + share * position[c]) * own(c);
    }
}

// out = dropout(x)
void drop(const float *x, int64_t n, Dropout dropout, float *out, int threads) {
    each(n, threads, [=](int64_t i) { out[i] = x[i] * dropout(i); });
}

// table[rows[i]] += factor * x[i], the columns shared out so that no two threads meet.
void scatter_add(float *table, const int64_t *rows, const float *x, int64_t n, int64_t width, float factor, int threads) {
#pragma omp parallel num_threads(worth(n * width, threads))
    {
        const Range mine = share(width, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t i = 0; i < n; i++)
            add_scaled(table + rows[i] * width + mine.begin, x + i * width + mine.begin, factor, mine.end - mine.begin);
    }
}

// out = x + dropout(h)
void add_dropped(const float *x, const float *h, int64_t n, Dropout dropout, float *out, int threads) {
    each(n, threads, [=](int64_t i) { out[i] = x[i] + h[i] * dropout(i); });
}

// out = dropout(h * sigmoid(1.702 h))
void gelu_dropped(const float *h, int64_t n, Dropout dropout, float *out, int threads) {
    each(n, threads, [=](int64_t i) { out[i] = h[i] * sigmoid(1.702f * h[i]) * dropout(i); });
}

void gelu_dropped_backward(const float *h, const float *out_gradient, int64_t n, Dropout dropout, float *gradient, int threads) {
    each(n, threads, [=](int64_t i) {
        const float gate = sigmoid(1.702f * h[i]);
        gradient[i] = out_gradient[i] * dropout(i) * gate * (1.0f + 1.702f * h[i] * (1.0f - gate));
    });
}

// out = dropout(gate * x), the gate in rows of `stride` floats
void gate_dropped(const float *gate, int64_t stride, const float *x, int64_t n, int64_t width, Dropout dropout, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(n * width, threads))
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * width, *gates = gate + i * stride;
        float *to = out + i * width;
        const Dropout own = dropout.from(i * width);
#pragma omp simd
        for (int64_t c = 0; c < width; c++) to[c] = gates[c] * row[c] * own(c);
    }
}

void gate_dropped_backward(const float *gate, int64_t stride, const float *x, const float *out_gradient, int64_t n, int64_t width,
                           Dropout dropout, float *gate_gradient, float *x_gradient, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(n * width, threads))
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * width, *gates = gate + i * stride, *out_row = out_gradient + i * width;
        float *to_gate = gate_gradient + i * width, *to_x = x_gradient + i * width;
        const Dropout own = dropout.from(i * width);
#pragma omp simd
        for (int64_t c = 0; c < width; c++) {
            const float pull = out_row[c] * own(c);
            to_gate[c] = pull * row[c];
            to_x[c] = pull * gates[c];
        }
    }
}

// Layer norm of rows; means and scales (n,) are kept for the way back.
void layer_norm(const float *x, const float *weight, const float *bias, int64_t n, int64_t width, float epsilon, float *out,
                float *means, float *scales, int threads) {
#pragma omp parallel for schedule(static) num_threads(worth(n * width, threads))
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * width;
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < width; c++) sum += row[c];
        const float mean = sum / width;
#pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < width; c++) squares += (row[c] - mean) * (row[c] - mean);
        const float scale = 1.0f / std::sqrt(squares / width + epsilon);
        means[i] = mean;
        scales[i] = scale;
#pragma omp simd
        for (int64_t c = 0; c < width; c++) out[i * width + c] = (row[c] - mean) * scale * weight[c] + bias[c];
    }
}

// `parameter_gradients` (threads, 2, width), zeroed by the caller: of the weight and of the bias.
void layer_norm_backward(const float *x, const float *weight, const float *means, const float *scales, const float *out_gradient,
                         int64_t n, int64_t width, float *gradient, float *parameter_gradients, int threads) {
#pragma omp parallel num_threads(worth(n * width, threads))
    {
        const Range mine = share(n, omp_get_thread_num(), omp_get_num_threads());
        float *weight_gradient = parameter_gradients + omp_get_thread_num() * 2 * width, *bias_gradient = weight_gradient + width;
        for (int64_t i = mine.begin; i < mine.end; i++) {
            const float *row = x + i * width, *pull = out_gradient + i * width;
            const float mean = means[i], scale = scales[i];
            float plain = 0, along = 0;
#pragma omp simd reduction(+ : plain, along)
            for (int64_t c = 0; c < width; c++) {
                const float normal = (row[c] - mean) * scale, weighted = pull[c] * weight[c];
                plain += weighted;
                along += weighted * normal;
                weight_gradient[c] += pull[c] * normal;
                bias_gradient[c] += pull[c];
            }
            plain /= width;
            along /= width;
#pragma omp simd
            for (int64_t c = 0; c < width; c++)
                gradient[i * width + c] = scale * (pull[c] * weight[c] - plain - (row[c] - mean) * scale * along);
        }
    }
}

void exponentials_fp32(float *scores, int64_t n, int64_t width, float *peaks, float *totals, int threads) {
    exponentials(scores, n, width, peaks, totals, threads);
}

void exponentials_bf16(uint16_t *scores, int64_t n, int64_t width, float *peaks, float *totals, int threads) {
    exponentials(scores, n, width, peaks, totals, threads);
}

// Softmax over the target and negatives that all rows share. `scores` (n, k) of the negatives become the gradient of the loss
// by them, `own` (n,) the score of the target its gradient; a negative that is the target does not count.
void shared_softmax(float *scores, float *own, const int64_t *targets, const int64_t *negatives, int64_t n, int64_t k, float *losses,
                    int threads) {
#pragma omp parallel num_threads(threads)
    {
        const Range mine = share(n, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t i = mine.begin; i < mine.end; i++) {
            float *row = scores + i * k;
            const int64_t target = targets[i];
            const float wanted = own[i];
            float peak = wanted;
#pragma omp simd reduction(max : peak)
            for (int64_t j = 0; j < k; j++) {
                row[j] = negatives[j] == target ? -INFINITY : row[j];
                peak = row[j] > peak ? row[j] : peak;
            }
            const float first = exponential(wanted - peak);
            float total = 0;
#pragma omp simd reduction(+ : total)
            for (int64_t j = 0; j < k; j++) {
                const float x = exponential(row[j] - peak);
                row[j] = negatives[j] == target ? 0.0f : x;
                total += row[j];
            }
            total += first;
            losses[i] = std::log(total) + peak - wanted;
            own[i] = first / total - 1.0f;
            const float factor = 1.0f / total;
#pragma omp simd
            for (int64_t j = 0; j < k; j++) row[j] *= factor;
        }
    }
}

// Softmax over candidates (n, k) of each row's own, the target first; a negative that is the target does not count.
// `shares` (n, k) gets the gradient of the loss by each score, `losses` (n,) the loss, `x_gradient` (n, width) its gradient by x.
void sampled_softmax(const float *x, const float *table, const int64_t *candidates, int64_t n, int64_t k, int64_t width, float *shares,
                     float *losses, float *x_gradient, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        const int64_t *items = candidates + i * k;
        float *share = shares + i * k, *gradient = x_gradient + i * width;
        float peak = -INFINITY;
        for (int64_t j = 0; j < k; j++) {
            share[j] = j && items[j] == items[0] ? -INFINITY : dot(x + i * width, table + items[j] * width, width);
            peak = share[j] > peak ? share[j] : peak;
        }
        const float wanted = share[0];
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < k; j++) {
            share[j] = share[j] == -INFINITY ? 0.0f : exponential(share[j] - peak);
            total += share[j];
        }
        losses[i] = std::log(total) + peak - wanted;
        std::memset(gradient, 0, width * sizeof(float));
        for (int64_t j = 0; j < k; j++) {
            share[j] = share[j] / total - (j == 0);
            add_scaled(gradient, table + items[j] * width, share[j], width);
        }
    }
}

// table_gradient[candidates[i, j]] += shares[i, j] * x[i], the columns shared out so that no two threads meet.
void scatter_shares(float *table_gradient, const int64_t *candidates, const float *shares, const float *x, int64_t n, int64_t k,
                    int64_t width, int threads) {
#pragma omp parallel num_threads(threads)
    {
        const Range mine = share(width, omp_get_thread_num(), omp_get_num_threads());
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < k; j++)
                add_scaled(table_gradient + candidates[i * k + j] * width + mine.begin, x + i * width + mine.begin, shares[i * k + j],
                           mine.end - mine.begin);
    }
}

// found[i] = how many of scores[i] reach goals[i]; -1 where one of them is not finite.
void count_reaching(const float *scores, const float *goals, int64_t n, int64_t width, int64_t *found, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        const float *row = scores + i * width, goal = goals[i];
        int32_t reaching = 0, finite = 0;
#pragma omp simd reduction(+ : reaching, finite)
        for (int64_t v = 0; v < width; v++) {
            reaching += row[v] >= goal;
            finite += std::fabs(row[v]) <= FLT_MAX;
        }
        found[i] = finite == width ? reaching : -1;
    }
}

// Keeps the k best of each row, best first, while chunks of scores (n, width) of the items from `start` on go by. Of equal
// scores the item that came first stays ahead; minus infinity never enters.
void keep_best(const float *scores, int64_t n, int64_t width, int64_t start, int64_t k, float *best, int64_t *items, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        const float *row = scores + i * width;
        float *own = best + i * k;
        int64_t *names = items + i * k;
        for (int64_t v = 0; v < width; v += LANES) {
            const int64_t stop = std::min(v + LANES, width);
            const float least = own[k - 1];
            int32_t better = 0;
#pragma omp simd reduction(+ : better)
            for (int64_t u = v; u < stop; u++) better += row[u] > least;
            for (int64_t u = v; better && u < stop; u++) {
                if (!(row[u] > own[k - 1])) continue;
                int64_t place = k - 1;
                for (; place > 0 && row[u] > own[place - 1]; place--) {
                    own[place] = own[place - 1];
                    names[place] = names[place - 1];
                }
                own[place] = row[u];
                names[place] = start + u;
            }
        }
    }
}
}
