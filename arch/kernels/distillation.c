/* A student's logits against a teacher's, float32. Arrays (rows, width) are dense; threads share the rows. */

#include <math.h>
#include <stdint.h>

#include "real.h"

#define PIECE 4096 /* values that are summed in float32 before their sum is added in float64 */

/* z, the student's logits by the temperature, becomes the gradient weight (q - p) + mix (q - y), with y one at the target;
   mix must be 0 unless the temperature is 1. p, the teacher's logits by the temperature, is overwritten. Of each row: KL(p || q);
   whether both have the same most likely token; -log softmax(temperature z) of the target; the cross-entropy -sum p log q. */
void against_teacher(float *z, float *p, const int64_t *targets, float *kl, float *agree, float *nats, float *soft,
                     int64_t rows, int64_t width, float temperature, float weight, float mix, int64_t threads)
{
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        float *z_r = z + row * width, *p_r = p + row * width, most_z = -INFINITY, most_p = -INFINITY;
        #pragma omp simd reduction(max : most_z, most_p)
        for (int64_t k = 0; k < width; k++) {
            most_z = z_r[k] > most_z ? z_r[k] : most_z;
            most_p = p_r[k] > most_p ? p_r[k] : most_p;
        }
        int64_t best = 0;
        while (best < width - 1 && p_r[best] != most_p) best++;
        agree[row] = z_r[best] >= most_z;
        float of_target = z_r[targets[row]];
        double sum_z = 0, sum_p = 0, sum_hard = 0, apart = 0, mean = 0;
        for (int64_t first = 0; first < width; first += PIECE) {
            int64_t end = first + PIECE < width ? first + PIECE : width;
            float part_z = 0, part_p = 0, part_hard = 0, part_apart = 0, part_mean = 0;
            if (temperature != 1.0f) {
                #pragma omp simd reduction(+ : part_hard)
                for (int64_t k = first; k < end; k++) {
                    float scale, e = exp_parts(temperature * (z_r[k] - most_z), &scale);
                    part_hard += FMA(scale, e, scale);
                }
            }
            #pragma omp simd reduction(+ : part_z, part_p, part_apart, part_mean)
            for (int64_t k = first; k < end; k++) {
                float scale, e_z = exp_parts(z_r[k] - most_z, &scale);
                e_z = FMA(scale, e_z, scale);
                float e_p = exp_parts(p_r[k] - most_p, &scale);
                e_p = FMA(scale, e_p, scale);
                part_z += e_z;
                part_p += e_p;
                part_apart += e_p * (p_r[k] - z_r[k]);
                part_mean += e_p * (z_r[k] - most_z);
                z_r[k] = e_z;
                p_r[k] = e_p;
            }
            sum_z += part_z, sum_p += part_p, sum_hard += part_hard, apart += part_apart, mean += part_mean;
        }
        double log_z = log(sum_z);
        kl[row] = (float)(((double)most_z - most_p) + (log_z - log(sum_p)) + apart / sum_p);
        soft[row] = (float)(log_z - mean / sum_p);
        double log_hard = temperature != 1.0f ? log(sum_hard) : log_z;
        nats[row] = (float)(log_hard - (double)temperature * ((double)of_target - most_z));
        float of_z = (float)((weight + mix) / sum_z), of_p = (float)(weight / sum_p);
        #pragma omp simd
        for (int64_t k = 0; k < width; k++) z_r[k] = of_z * z_r[k] - of_p * p_r[k];
        z_r[targets[row]] -= mix;
    }
}
