// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Random;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;

/**
 * Writes model directories with random weights, for tests that need a model of a certain shape and
 * not a trained one.
 */
public final class SmallModel {
  private SmallModel() {}

  /** A Llama config. */
  public static String llama(int vocab, int hidden, int layers, int heads, int kvHeads, int ffn) {
    return "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"torch_dtype\":\"bfloat16\","
        + "\"bos_token_id\":1,\"eos_token_id\":2,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,"
        + "\"tie_word_embeddings\":false,\"vocab_size\":"
        + vocab
        + ",\"hidden_size\":"
        + hidden
        + ",\"num_hidden_layers\":"
        + layers
        + ",\"num_attention_heads\":"
        + heads
        + ",\"num_key_value_heads\":"
        + kvHeads
        + ",\"intermediate_size\":"
        + ffn
        + "}";
  }

  /** A GPT-NeoX config. */
  public static String neox(
      int vocab, int hidden, int layers, int heads, int ffn, boolean parallelResidual) {
    return "{\"model_type\":\"gpt_neox\",\"architectures\":[\"GPTNeoXForCausalLM\"],\"torch_dtype\":\"bfloat16\","
        + "\"bos_token_id\":1,\"eos_token_id\":2,\"max_position_embeddings\":512,\"layer_norm_eps\":1e-5,"
        + "\"hidden_act\":\"gelu\",\"rotary_pct\":0.5,\"tie_word_embeddings\":false,\"use_parallel_residual\":"
        + parallelResidual
        + ",\"vocab_size\":"
        + vocab
        + ",\"hidden_size\":"
        + hidden
        + ",\"num_hidden_layers\":"
        + layers
        + ",\"num_attention_heads\":"
        + heads
        + ",\"intermediate_size\":"
        + ffn
        + "}";
  }

  /** Writes config.json and bf16 weights, normal with deviation 0.05, norms around one. */
  public static ModelConfig write(Path directory, String configJson, long seed) {
    try {
      Files.createDirectories(directory);
      Files.writeString(directory.resolve("config.json"), configJson);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    ModelConfig config = ModelConfig.read(directory);
    Random random = new Random(seed);
    try (SafetensorsWriter writer =
        SafetensorsWriter.create(directory.resolve(ModelCheckpoint.SINGLE_FILE))) {
      for (WeightNames.Module module : WeightNames.of(config).modules()) {
        writer.declare(
            module.weight(),
            StoredType.BF16,
            module.shape().stream().mapToLong(Long::longValue).toArray());
        if (module.hasBias()) {
          writer.declare(module.bias(), StoredType.BF16, module.rows());
        }
      }
      for (WeightNames.Module module : WeightNames.of(config).modules()) {
        boolean norm = module.shape().size() == 1;
        writer.write(
            module.weight(), values(random, module.rows() * module.cols(), norm ? 1f : 0f));
        if (module.hasBias()) {
          writer.write(module.bias(), values(random, module.rows(), 0f));
        }
      }
      writer.commit();
    }
    return config;
  }

  private static ByteBuffer values(Random random, long count, float mean) {
    ByteBuffer bytes =
        ByteBuffer.allocate(Math.toIntExact(2 * count)).order(ByteOrder.LITTLE_ENDIAN);
    for (long i = 0; i < count; i++) {
      bytes.putShort(
          (short) (Float.floatToIntBits(mean + (float) random.nextGaussian() * 0.05f) >>> 16));
    }
    return bytes.flip();
  }
}
