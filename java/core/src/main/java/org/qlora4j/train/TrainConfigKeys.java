// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Every key of a training configuration: name, aliases known from PEFT, TRL and Axolotl, default,
 * meaning.
 */
public final class TrainConfigKeys {

  /**
   * One key.
   *
   * @param name the name this project writes
   * @param aliases names of other tools for the same thing
   * @param defaultText the default as text; empty where the key is required or unset by default
   * @param meaning one line
   */
  public record Key(String name, List<String> aliases, String defaultText, String meaning) {}

  /** All keys in the order of the documentation. */
  public static final List<Key> ALL =
      List.of(
          key(
              "model",
              "",
              "Hugging Face model directory (required)",
              "base_model",
              "model_name_or_path"),
          key(
              "init",
              "checkpoint",
              "checkpoint, or random to draw every weight, with method: full (the directory then needs only config.json and the tokenizer)"),
          key("method", "qlora", "full, lora or qlora", "adapter", "finetuning_type"),
          key("output_dir", "", "directory of the result (required)"),
          key(
              "compute",
              "bfloat16",
              "bfloat16 or float32: type of activations and matrix products",
              "bnb_4bit_compute_dtype"),
          key("bf16", "", "true is the same as compute: bfloat16, false as compute: float32"),
          key(
              "fp16",
              "false",
              "only false: 16-bit floats without the range of bfloat16 are not computed in"),
          key("load_in_4bit", "", "true needs method: qlora, false another method"),
          key("load_in_8bit", "", "true is the same as quantization: int8"),
          key(
              "train_file",
              "",
              "file or list of files with training examples: .jsonl, .json or .txt (required)",
              "train_files",
              "dataset_path",
              "data_files",
              "train_data"),
          key(
              "eval_file",
              "",
              "file with held-out examples",
              "eval_dataset_path",
              "validation_file"),
          key(
              "val_set_size",
              "0",
              "held-out share (below 1) or number of each train_file's examples when there is no eval_file",
              "test_size"),
          key(
              "sequence_length",
              "512",
              "longest sequence in tokens; longer ones are cut at the end",
              "sequence_len",
              "max_seq_length",
              "max_length",
              "cutoff_len"),
          key("train_on_inputs", "false", "also learn the prompts, not only the completions"),
          key("completion_only_loss", "", "the opposite of train_on_inputs"),
          key(
              "add_eos",
              "true",
              "append the end-of-sequence token and learn it, so that the model learns to stop"),
          key(
              "prompt_template",
              "alpaca",
              "text around instruction rows, with {instruction} and {input}; alpaca for the usual one"),
          key(
              "chat_template",
              "tokenizer",
              "tokenizer for the model's own, plain, or the path of a Jinja file"),
          key("shuffle", "true", "give every epoch an order of its own"),
          key(
              "group_by_length",
              "false",
              "give a step examples of about one length, by the rule of Hugging Face's sampler"),
          key(
              "packing",
              "false",
              "put several examples into a row of up to sequence_length tokens; they do not see each other",
              "sample_packing"),
          key("packing_strategy", "bfd", "with packing: only bfd, best-fit decreasing"),
          key(
              "quantization",
              "",
              "how the base's linear weights are held: nf4 or fp4 (method: qlora), int8, fp8 or none (method: lora)"),
          key("bnb_4bit_quant_type", "nf4", "nf4 or fp4", "quant_type", "quantization_type"),
          key(
              "bnb_4bit_use_double_quant",
              "true",
              "quantize the blocks' scales too",
              "double_quant",
              "double_quantization"),
          key(
              "bnb_4bit_blocksize",
              "64",
              "elements that share a scale: a power of two from 32 to 4096",
              "blocksize"),
          key(
              "llm_int8_threshold",
              "0",
              "with quantization: int8: columns of activations with a magnitude of at least this are multiplied in 16 bits; 0 for none"),
          key("lora_r", "16", "rank of the adapter", "r", "lora_rank"),
          key("lora_alpha", "", "the adapter's scale is alpha / r (default: 2 r)"),
          key("lora_dropout", "0", "dropout on the adapter's input"),
          key(
              "lora_target_modules",
              "all-linear",
              "all-linear, a list such as [q_proj, v_proj], or a regular expression of whole module paths",
              "target_modules"),
          key("lora_target_linear", "", "true is the same as lora_target_modules: all-linear"),
          key(
              "exclude_modules",
              "[]",
              "layers to leave out: a list of names, or a regular expression of whole module paths"),
          key(
              "layers_to_transform",
              "",
              "numbers of the decoder layers that are adapted, from 0 (default: all)",
              "peft_layers_to_transform"),
          key(
              "layers_pattern",
              "",
              "name of the list of layers that layers_to_transform counts in (default: the first number in a path)",
              "peft_layers_pattern"),
          key(
              "rank_pattern",
              "{}",
              "other ranks by the end of a module path, a regular expression: {q_proj: 8}"),
          key("alpha_pattern", "{}", "other lora_alpha by the end of a module path"),
          key("use_rslora", "false", "scale by alpha / sqrt(r) instead", "peft_use_rslora"),
          key(
              "use_dora",
              "false",
              "learn a magnitude for each row of the adapted weights (DoRA)",
              "peft_use_dora"),
          key(
              "modules_to_save",
              "[]",
              "modules trained in full beside the adapter: embed_tokens, lm_head, norms",
              "lora_modules_to_save",
              "additional_target"),
          key(
              "bias",
              "none",
              "biases of the base trained with the adapter: none, all or lora_only"),
          key(
              "init_lora_weights",
              "true",
              "true, false, gaussian, pissa, pissa_niter_N or loftq: how the adapter begins",
              "peft_init_lora_weights"),
          key(
              "init_adapter",
              "",
              "directory of an adapter that training goes on from; it decides rank, targets and the like",
              "lora_model_dir",
              "adapter_name_or_path"),
          key(
              "lora_compute",
              "fast",
              "fast: the adapter's products on values rounded to the compute type; float32: nothing of it rounded"),
          key(
              "per_device_train_batch_size",
              "1",
              "sequences of one forward and backward pass",
              "micro_batch_size",
              "batch_size"),
          key("gradient_accumulation_steps", "1", "passes of one optimizer step"),
          key(
              "num_train_epochs",
              "1",
              "passes over the examples where max_steps is not given; may be a fraction",
              "num_epochs",
              "epochs"),
          key("max_steps", "0", "optimizer steps; 0 to count epochs", "iters"),
          key("learning_rate", "2e-4", "largest learning rate", "lr"),
          key(
              "loraplus_lr_ratio",
              "1",
              "LoRA+: the rates of lora_B and of vectors (magnitudes, norms, biases) are this many times learning_rate",
              "loraplus_ratio"),
          key(
              "loraplus_lr_embedding",
              "",
              "learning rate of an embedding in modules_to_save (default: learning_rate)"),
          key(
              "lr_scheduler_type",
              "linear",
              "constant, constant_with_warmup, linear or cosine",
              "lr_scheduler"),
          key("warmup_steps", "0", "steps in which the learning rate grows from 0"),
          key("warmup_ratio", "0", "the same as a share of all steps"),
          key("weight_decay", "0", "decoupled weight decay"),
          key(
              "label_smoothing_factor",
              "0",
              "share of the target that is spread over the whole vocabulary; training only"),
          key(
              "z_loss",
              "0",
              "factor of the squared log of the softmax's normalizer in the training loss",
              "lse_square_scale"),
          key(
              "neftune_noise_alpha",
              "0",
              "NEFTune: uniform noise within alpha / sqrt(length x hidden size) on the embeddings; training only"),
          key("adam_beta1", "0.9", "decay of AdamW's first moment"),
          key("adam_beta2", "0.999", "decay of AdamW's second moment"),
          key("adam_epsilon", "1e-8", "AdamW's epsilon"),
          key(
              "max_grad_norm",
              "1.0",
              "bound on the norm of all gradients together; 0 for none",
              "gradient_clipping"),
          key(
              "optim",
              "adamw",
              "adamw, adamw_8bit, paged_adamw_32bit or paged_adamw_8bit: precision and place of the optimizer's states",
              "optimizer"),
          key(
              "optimizer_memory_budget",
              "",
              "what of paged states stays in memory: a share such as 25%, or bytes such as 512MiB (default: 25%)"),
          key(
              "paging_dir",
              "",
              "where the files of paged states and of offloaded activations lie on a CPU (default: output_dir)",
              "optimizer_paging_dir"),
          key("seed", "42", "of initial adapter weights, dropout and NEFTune's noise"),
          key("data_seed", "", "of the split and the order of examples (default: seed)"),
          key(
              "gradient_checkpointing",
              "true",
              "keep only the layers' inputs and compute the rest again in the backward pass"),
          key(
              "checkpoint_every",
              "1",
              "with gradient_checkpointing: keep the input of every so many layers only"),
          key(
              "checkpoint_save",
              "[]",
              "with gradient_checkpointing: what of every layer is kept besides and not computed again: a list of attention, mlp, qkv, residual"),
          key(
              "activation_offloading",
              "false",
              "with gradient_checkpointing: what is kept waits in a file on a CPU, in host memory on a GPU"),
          key("loss_chunk", "1024", "tokens whose logits exist at one time", "cross_entropy_chunk"),
          key(
              "memory_limit",
              "",
              "most memory the run may use, such as 24GB (default: what the machine or the control group has)"),
          key(
              "auto_micro_batch",
              "false",
              "where the memory plan does not fit, take smaller micro-batches and more of them until it does"),
          key("ignore_memory_plan", "false", "start although the memory plan does not fit"),
          key(
              "device",
              "auto",
              "cuda for an NVIDIA GPU, cpu, or auto: the GPU where it can be used, else the CPU"),
          key("threads", "0", "CPU threads; 0 for as many as the machine allows"),
          key("logging_steps", "10", "optimizer steps between lines of metrics.jsonl"),
          key(
              "eval_steps",
              "0",
              "optimizer steps between evaluations; 0: only before and after training"),
          key("save_steps", "0", "optimizer steps between checkpoints; 0 for none"),
          key("save_total_limit", "2", "newest checkpoints to keep; 0 for all"),
          key(
              "sample_prompts",
              "[]",
              "prompts whose continuations are printed before and after training"),
          key("sample_max_new_tokens", "64", "longest continuation in tokens"),
          key("sample_temperature", "0", "0 for the likeliest token each time"),
          key("sample_top_k", "0", "draw from the k likeliest tokens; 0 for all"),
          key("sample_top_p", "1.0", "draw from the likeliest tokens of together this probability"),
          key(
              "sample_repetition_penalty",
              "1.0",
              "divide the scores of tokens that were used already"));

  private TrainConfigKeys() {}

  /** The key a user's name stands for, by name or alias, or null. */
  static @Nullable Key find(String name) {
    for (Key key : ALL) {
      if (key.name().equals(name) || key.aliases().contains(name)) {
        return key;
      }
    }
    return null;
  }

  /** The name of the key that is meant; an unknown one as it is. */
  public static String canonical(String name) {
    Key key = find(name);
    return key == null ? name : key.name();
  }

  /** All names and aliases. */
  static List<String> names() {
    List<String> names = new ArrayList<>();
    for (Key key : ALL) {
      names.add(key.name());
      names.addAll(key.aliases());
    }
    return names;
  }

  private static Key key(String name, String defaultText, String meaning, String... aliases) {
    return new Key(name, List.of(aliases), defaultText, meaning);
  }
}
