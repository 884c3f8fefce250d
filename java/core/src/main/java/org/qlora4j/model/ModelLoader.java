// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.Activation;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.model.WeightNames.Module;
import org.qlora4j.model.WeightNames.Part;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tensor.TensorArena;

/**
 * Builds a {@link DecoderModel} from a checkpoint, tensor by tensor; see {@link WeightReader} for
 * what memory that takes.
 */
public final class ModelLoader {

  /**
   * How the weights are held.
   *
   * @param compute element type of activations; with BF16, dense matrices of another type are
   *     rounded to it
   * @param quantization of the blocks' linear weights, or null: as they are stored; weights stored
   *     in 4 or 8 bits stay as they are, and cannot become anything else
   * @param trainWeights hold every weight as an f32 parameter with a gradient (method full)
   * @param embeddingInFile bytes from which on an input embedding stays in its file, where it can:
   *     frozen, not the head as well, and on a CPU. {@link Long#MAX_VALUE} for never
   */
  public record Options(
      DType compute,
      @Nullable QuantizationConfig quantization,
      boolean trainWeights,
      long embeddingInFile) {

    /** Below it, the time to read rows is worth more than the memory. */
    public static final long EMBEDDING_IN_FILE = 64L << 20;

    /** Large input embeddings stay in their file. */
    public Options(DType compute, @Nullable QuantizationConfig quantization, boolean trainWeights) {
      this(compute, quantization, trainWeights, EMBEDDING_IN_FILE);
    }

    public Options {
      if (compute != DType.BF16 && compute != DType.F32) {
        throw new IllegalArgumentException("compute must be BF16 or F32, found " + compute);
      }
      if (trainWeights && quantization != null) {
        throw new IllegalArgumentException(
            "quantized weights cannot be trained; train adapters on them");
      }
    }
  }

  /**
   * Where the loader takes a linear's quantized weight from, instead of quantizing the
   * checkpoint's.
   */
  public interface QuantizedSource {
    /** The weight of a module, which the model will own, or null: quantize the checkpoint's. */
    @Nullable QuantizedWeight find(Module module);
  }

  private final KernelPack pack;
  private final ModelConfig config;
  private final WeightNames names;
  private final Options options;
  private final WeightReader reader;
  private final @Nullable ParameterSet parameters;
  private final List<LinearLayer> linears = new ArrayList<>();
  private final List<NormLayer> norms = new ArrayList<>();
  private int linearCount = 0;

  private ModelLoader(KernelPack pack, ModelConfig config, Options options, WeightReader reader) {
    this.pack = pack;
    this.config = config;
    this.names = WeightNames.of(config);
    this.options = options;
    this.reader = reader;
    this.parameters = options.trainWeights() ? reader.own(new ParameterSet(pack)) : null;
  }

  /** Loads a checkpoint whose tensors fit the config. */
  public static DecoderModel load(
      KernelPack pack,
      ModelConfig config,
      ModelCheckpoint checkpoint,
      Options options,
      Progress progress) {
    return load(pack, config, checkpoint, options, module -> null, progress);
  }

  /** As {@link #load}, with quantized weights from elsewhere where {@code quantized} has them. */
  public static DecoderModel load(
      KernelPack pack,
      ModelConfig config,
      ModelCheckpoint checkpoint,
      Options options,
      QuantizedSource quantized,
      Progress progress) {
    WeightNames names = WeightNames.of(config);
    names.check(checkpoint);
    names.modules().forEach(module -> checkStored(checkpoint, module, options));
    try (WeightReader reader = new WeightReader(pack)) {
      ModelLoader loader = new ModelLoader(pack, config, options, reader);
      return loader.build(new CheckpointWeights(loader, checkpoint, quantized), progress);
    }
  }

  /** Whether a weight that is quantized already may be held as the options say. */
  private static void checkStored(ModelCheckpoint checkpoint, Module module, Options options) {
    int bits =
        module.part().linear() ? QuantizedTensors.storedBits(checkpoint, module.weight()) : 0;
    QuantizationConfig wanted = options.quantization();
    if (bits == 0) {
      return;
    }
    String stored = checkpoint.directory() + ": the weights are stored in " + bits + " bits";
    if (options.trainWeights()) {
      throw new InputException(
          stored
              + " and cannot be trained in full; use method: "
              + (bits == 4 ? "qlora" : "lora")
              + ", or a base in 16 or 32 bits");
    }
    if (wanted == null || wanted.fits(bits)) {
      return;
    }
    if (wanted.format() == WeightFormat.FP8 && bits == 8) {
      throw new InputException(
          stored
              + " (INT8); use method: lora without quantization: fp8, or a base in 16 or 32 bits");
    }
    throw new InputException(
        bits == 4
            ? stored
                + "; use method: qlora without quantization: "
                + wanted.format().name().toLowerCase(Locale.ROOT)
                + ", or a base in 16 or 32 bits"
            : stored
                + "; use method: lora, or a base in 16 or 32 bits to quantize to "
                + wanted.format().name().toLowerCase(Locale.ROOT));
  }

  /**
   * A model with random weights, all trained: linear and embedding weights normal with the config's
   * initializer_range, norms that scale nothing, biases zero, as transformers initialises.
   */
  public static DecoderModel random(KernelPack pack, ModelConfig config, DType compute, long seed) {
    return random(pack, config, new Options(compute, null, true), seed, Progress.none());
  }

  /**
   * A model with random weights of that distribution, held as {@code options} say: what a benchmark
   * needs of a shape nobody has trained.
   */
  public static DecoderModel random(
      KernelPack pack, ModelConfig config, Options options, long seed, Progress progress) {
    try (WeightReader reader = new WeightReader(pack)) {
      ModelLoader loader = new ModelLoader(pack, config, options, reader);
      return loader.build(new RandomWeights(loader, seed), progress);
    }
  }

  /**
   * A model of the config's shape whose weights hold nothing, on a pack that only counts ({@link
   * KernelPack#isDryRun}): what {@link #load} would allocate for a checkpoint stored as {@code
   * stored}.
   */
  public static DecoderModel dryRun(
      KernelPack pack, ModelConfig config, Options options, DType stored) {
    if (!pack.isDryRun()) {
      throw new IllegalArgumentException("a dry run needs a pack that only counts");
    }
    try (WeightReader reader = new WeightReader(pack)) {
      ModelLoader loader = new ModelLoader(pack, config, options, reader);
      return loader.build(new NoWeights(loader, stored), Progress.none());
    }
  }

  /** Fills a trained parameter, or makes a frozen weight. */
  private interface Weights {
    void fill(Module module, DeviceTensor weight, @Nullable DeviceTensor bias);

    Weight linear(Module module);

    DeviceTensor dense(Module module, boolean bias);

    /** Element type of a module's weight on the device. */
    DType held(Module module);

    /** The input embedding, where it is; null where there is no file. */
    @Nullable EmbeddingTable inFile(Module module);
  }

  private DecoderModel build(Weights weights, Progress progress) {
    progress.start(
        options.quantization() == null ? "loading" : "quantizing", names.modules().size());
    Map<RotaryConfig, RotaryEmbedding> rotary = new HashMap<>();
    for (ModelConfig.LayerAttention attention : config.layerAttention()) {
      rotary.computeIfAbsent(attention.rotary(), one -> reader.own(new RotaryEmbedding(pack, one)));
    }
    Module embeddingModule = names.module(Part.EMBEDDING, -1);
    Parameter embeddingParameter = null;
    DeviceTensor table = null;
    EmbeddingTable embedding =
        mayStayInFile(weights.held(embeddingModule)) ? weights.inFile(embeddingModule) : null;
    if (embedding == null) {
      if (parameters == null) {
        table = weights.dense(embeddingModule, false);
      } else {
        embeddingParameter =
            parameters.add(embeddingModule.weight(), config.vocabSize(), config.hiddenSize());
        table = embeddingParameter.value();
        weights.fill(embeddingModule, table, null);
      }
      embedding = new ResidentEmbedding(table);
    }
    EmbeddingModule embeddingLayer =
        new EmbeddingModule(
            pack,
            embeddingModule.path(),
            config.vocabSize(),
            config.hiddenSize(),
            embedding,
            embeddingParameter);
    List<DecoderBlock> blocks = new ArrayList<>();
    for (int layer = 0; layer < config.layers(); layer++) {
      progress.update(
          (long) layer * names.modules().size() / config.layers(), "layer " + (layer + 1));
      blocks.add(block(weights, layer, rotary));
    }
    NormLayer finalNorm = norm(weights, Part.FINAL_NORM, -1);
    LinearLayer head;
    if (config.tiedHead()) {
      DeviceTensor shared = Objects.requireNonNull(table);
      head = new LinearLayer(names.module(Part.HEAD, -1).path(), -1, Weight.dense(shared), null);
      if (embeddingParameter != null) {
        head.train(embeddingParameter, null);
      }
    } else {
      head = head(weights, names.module(Part.HEAD, -1));
    }
    progress.update(names.modules().size(), "done");
    progress.finish();
    return new DecoderModel(
        config,
        pack,
        embeddingLayer,
        blocks,
        finalNorm,
        head,
        parameters,
        norms,
        reader.takeMemory());
  }

  private boolean mayStayInFile(DType held) {
    long bytes = (long) config.vocabSize() * config.hiddenSize() * held.bytes();
    return parameters == null
        && !config.tiedHead()
        && pack.deviceKind() == DeviceKind.CPU
        && bytes >= options.embeddingInFile();
  }

  private DecoderBlock block(
      Weights weights, int layer, Map<RotaryConfig, RotaryEmbedding> rotary) {
    linears.clear();
    NormLayer attentionNorm = norm(weights, Part.ATTENTION_NORM, layer);
    SelfAttention attention = attention(weights, layer, rotary);
    NormLayer ffnNorm = norm(weights, Part.MLP_NORM, layer);
    FeedForward ffn = feedForward(weights, layer);
    DecoderBlock.OutputNorms outputNorms =
        config.outputNorms()
            ? new DecoderBlock.OutputNorms(
                norm(weights, Part.ATTENTION_OUTPUT_NORM, layer),
                norm(weights, Part.MLP_OUTPUT_NORM, layer))
            : null;
    return new DecoderBlock(
        config.parallelResidual(), attentionNorm, attention, ffnNorm, ffn, outputNorms, linears);
  }

  private SelfAttention attention(
      Weights weights, int layer, Map<RotaryConfig, RotaryEmbedding> rotary) {
    SelfAttention.Projection projection =
        config.qkv() == ModelConfig.Qkv.SEPARATE
            ? new SelfAttention.Separate(
                linear(weights, Part.QUERY, layer),
                linear(weights, Part.KEY, layer),
                linear(weights, Part.VALUE, layer))
            : new SelfAttention.Fused(linear(weights, Part.QUERY_KEY_VALUE, layer));
    SelfAttention.HeadNorms headNorms =
        config.queryKeyNorm()
            ? new SelfAttention.HeadNorms(
                norm(weights, Part.QUERY_NORM, layer), norm(weights, Part.KEY_NORM, layer))
            : null;
    return new SelfAttention(
        config,
        projection,
        headNorms,
        Objects.requireNonNull(rotary.get(config.layerAttention().get(layer).rotary())),
        AttentionCore.of(pack, SelfAttention.shape(config, layer), config.attentionSoftcap()),
        linear(weights, Part.ATTENTION_OUTPUT, layer));
  }

  private FeedForward feedForward(Weights weights, int layer) {
    FeedForward.Expansion expansion =
        switch (config.mlp()) {
          case PLAIN -> new FeedForward.Plain(linear(weights, Part.UP, layer));
          case GATED ->
              new FeedForward.Gated(
                  linear(weights, Part.GATE, layer), linear(weights, Part.UP, layer));
          case GATED_FUSED -> new FeedForward.GatedFused(linear(weights, Part.GATE_UP, layer));
        };
    return new FeedForward(
        switch (config.activation()) {
          case SILU -> Activation.Kind.SILU;
          case GELU_ERF -> Activation.Kind.GELU_ERF;
          case GELU_TANH -> Activation.Kind.GELU_TANH;
        },
        expansion,
        linear(weights, Part.DOWN, layer));
  }

  private LinearLayer linear(Weights weights, Part part, int layer) {
    Module module = names.module(part, layer);
    int number = linearCount++;
    LinearLayer made;
    if (parameters == null) {
      made =
          new LinearLayer(
              module.path(),
              number,
              weights.linear(module),
              module.hasBias() ? weights.dense(module, true) : null);
      if (options.quantization() != null && options.compute() == DType.BF16) {
        made.setOutlierThreshold(options.quantization().outlierThreshold());
      }
    } else {
      made = trained(weights, module, number, parameters);
    }
    linears.add(made);
    return made;
  }

  private LinearLayer head(Weights weights, Module module) {
    return parameters == null
        ? new LinearLayer(module.path(), -1, Weight.dense(weights.dense(module, false)), null)
        : trained(weights, module, -1, parameters);
  }

  private static LinearLayer trained(
      Weights weights, Module module, int number, ParameterSet parameters) {
    Parameter weight = parameters.add(module.weight(), module.rows(), module.cols());
    Parameter bias = module.hasBias() ? parameters.add(module.bias(), module.rows()) : null;
    DeviceTensor biasValue = bias == null ? null : bias.value();
    weights.fill(module, weight.value(), biasValue);
    LinearLayer made =
        new LinearLayer(module.path(), number, Weight.dense(weight.value()), biasValue);
    made.train(weight, bias);
    return made;
  }

  private NormLayer norm(Weights weights, Part part, int layer) {
    Module module = names.module(part, layer);
    NormLayer made;
    if (parameters == null) {
      made =
          new NormLayer(
              module.path(),
              config.norm(),
              config.normEps(),
              weights.dense(module, false),
              module.hasBias() ? weights.dense(module, true) : null);
    } else {
      Parameter weight = parameters.add(module.weight(), module.rows());
      Parameter bias = module.hasBias() ? parameters.add(module.bias(), module.rows()) : null;
      DeviceTensor biasValue = bias == null ? null : bias.value();
      weights.fill(module, weight.value(), biasValue);
      made =
          new NormLayer(module.path(), config.norm(), config.normEps(), weight.value(), biasValue);
      made.train(weight, bias);
    }
    norms.add(made);
    return made;
  }

  /**
   * A frozen tensor is held as it is stored when the operators take that type and it is no larger
   * than the compute type. Norms and biases are small and only come in f32 or bf16, so f16 ones are
   * widened without loss.
   */
  private DType heldType(Module module, boolean bias, DType stored) {
    if (module.shape().size() == 2 && options.compute() == DType.BF16) {
      return DType.BF16;
    }
    boolean matrix = module.shape().size() == 2 && !bias;
    return stored == DType.F16 && !matrix ? DType.F32 : stored;
  }

  /** Weights from files. */
  private static final class CheckpointWeights implements Weights {
    private final ModelLoader loader;
    private final ModelCheckpoint checkpoint;
    private final QuantizedSource quantized;

    CheckpointWeights(ModelLoader loader, ModelCheckpoint checkpoint, QuantizedSource quantized) {
      this.loader = loader;
      this.checkpoint = checkpoint;
      this.quantized = quantized;
    }

    @Override
    public void fill(Module module, DeviceTensor weight, @Nullable DeviceTensor bias) {
      loader.reader.readInto(loader.names.weight(checkpoint, module), weight);
      TensorSource biasSource = loader.names.bias(checkpoint, module);
      if (bias != null && biasSource != null) {
        loader.reader.readInto(biasSource, bias);
      }
    }

    @Override
    public Weight linear(Module module) {
      QuantizedWeight given = quantized.find(module);
      if (given != null) {
        return loader.reader.ready(given);
      }
      if (WeightNames.isQuantized(checkpoint, module)) {
        return loader.reader.readQuantized(loader.names.quantized(checkpoint, module));
      }
      QuantizationConfig quantization = loader.options.quantization();
      return quantization == null
          ? Weight.dense(dense(module, false))
          : loader.reader.readQuantized(loader.names.weight(checkpoint, module), quantization);
    }

    @Override
    public DeviceTensor dense(Module module, boolean bias) {
      TensorSource source =
          bias ? checkpoint.tensor(module.bias()) : loader.names.weight(checkpoint, module);
      return loader.reader.read(source, loader.heldType(module, bias, source.dtype()));
    }

    @Override
    public DType held(Module module) {
      return loader.heldType(module, false, loader.names.weight(checkpoint, module).dtype());
    }

    @Override
    public EmbeddingTable inFile(Module module) {
      return loader.reader.own(new FileEmbedding(loader.names.weight(checkpoint, module)));
    }
  }

  /** No weights: their memory alone, for a dry run. */
  private static final class NoWeights implements Weights {
    private final ModelLoader loader;
    private final DType stored;

    NoWeights(ModelLoader loader, DType stored) {
      this.loader = loader;
      this.stored = stored;
    }

    @Override
    public void fill(Module module, DeviceTensor weight, @Nullable DeviceTensor bias) {}

    @Override
    public Weight linear(Module module) {
      QuantizationConfig quantization = loader.options.quantization();
      if (quantization == null) {
        return Weight.dense(dense(module, false));
      }
      try (DeviceBuffer memory =
          DeviceBuffer.allocate(loader.pack, module.rows() * module.cols() * stored.bytes())) {
        DeviceTensor dense = DeviceTensor.of(memory, 0, stored, module.rows(), module.cols());
        return loader.reader.ready(QuantizedWeight.quantize(loader.pack, dense, quantization));
      }
    }

    @Override
    public DeviceTensor dense(Module module, boolean bias) {
      DType type = loader.heldType(module, bias, stored);
      long[] shape =
          bias
              ? new long[] {module.rows()}
              : module.shape().stream().mapToLong(Long::longValue).toArray();
      long elements = Arrays.stream(shape).reduce(1, Math::multiplyExact);
      return DeviceTensor.of(
          loader.reader.own(DeviceBuffer.allocate(loader.pack, elements * type.bytes())),
          0,
          type,
          shape);
    }

    @Override
    public DType held(Module module) {
      return loader.heldType(module, false, stored);
    }

    @Override
    public EmbeddingTable inFile(Module module) {
      return new EmbeddingTable() {
        @Override
        public void gather(DeviceTensor ids, DeviceTensor out, TensorArena arena) {}

        @Override
        public long bytes() {
          return 0;
        }
      };
    }
  }

  /** Random initial weights. */
  private static final class RandomWeights implements Weights {
    /** Elements drawn at a time, so that a large matrix does not need a large Java heap. */
    private static final long CHUNK_ELEMENTS = 1 << 20;

    private final ModelLoader loader;
    private final SplittableRandom random;
    private final double deviation;

    RandomWeights(ModelLoader loader, long seed) {
      this.loader = loader;
      this.random = new SplittableRandom(seed);
      this.deviation = loader.config.initializerRange();
    }

    @Override
    public void fill(Module module, DeviceTensor weight, @Nullable DeviceTensor bias) {
      boolean vector = module.shape().size() == 1;
      DeviceTensor flat = weight.reshape(weight.elements());
      for (long first = 0; first < flat.elements(); first += CHUNK_ELEMENTS) {
        float[] values = new float[(int) Math.min(CHUNK_ELEMENTS, flat.elements() - first)];
        for (int i = 0; i < values.length; i++) {
          values[i] =
              vector
                  ? loader.config.norm().neutralWeight()
                  : (float) (random.nextGaussian() * deviation);
        }
        flat.rows(first, values.length).copyFrom(values);
      }
      if (bias != null) {
        bias.zero();
      }
    }

    @Override
    public Weight linear(Module module) {
      QuantizationConfig quantization = loader.options.quantization();
      if (quantization == null) {
        return Weight.dense(dense(module, false));
      }
      DType type = loader.options.compute();
      try (DeviceBuffer memory =
          DeviceBuffer.allocate(loader.pack, module.rows() * module.cols() * type.bytes())) {
        DeviceTensor dense = DeviceTensor.of(memory, 0, type, module.rows(), module.cols());
        fill(module, dense, null);
        return loader.reader.ready(QuantizedWeight.quantize(loader.pack, dense, quantization));
      }
    }

    @Override
    public DeviceTensor dense(Module module, boolean bias) {
      DType type = loader.options.compute();
      long[] shape =
          bias
              ? new long[] {module.rows()}
              : module.shape().stream().mapToLong(Long::longValue).toArray();
      long elements = Arrays.stream(shape).reduce(1, Math::multiplyExact);
      DeviceBuffer memory =
          loader.reader.own(DeviceBuffer.allocate(loader.pack, elements * type.bytes()));
      DeviceTensor tensor = DeviceTensor.of(memory, 0, type, shape);
      if (bias) {
        tensor.zero();
      } else {
        fill(module, tensor, null);
      }
      return tensor;
    }

    @Override
    public DType held(Module module) {
      return loader.options.compute();
    }

    @Override
    public @Nullable EmbeddingTable inFile(Module module) {
      return null;
    }
  }
}
