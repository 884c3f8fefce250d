// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.PeftAdapterConfig;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.LinearLayer;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.TrainableModule;
import org.qlora4j.model.WeightFiles;
import org.qlora4j.model.WeightNames;

/**
 * The adapter of one model: for every targeted linear layer an a and a b, with DoRA a magnitude a
 * row, and copies of the modules and biases that are trained in full; all f32. Owns their memory.
 */
public final class LoraAdapter implements AutoCloseable {

  /** What an adapter trains of a module itself. */
  private record Copy(
      TrainableModule module, @Nullable Parameter weight, @Nullable Parameter bias) {}

  /** Where a and b began, on a base that lost their product. */
  private record Origin(DeviceTensor a, DeviceTensor b) {}

  private final LoraConfig config;
  private final ParameterSet parameters;
  private final Map<String, LoraLayer> layers;
  private final Map<String, LinearLayer> linears;
  private final List<Copy> copies;
  private final Map<String, Origin> origins;
  private final List<DeviceBuffer> memory;

  private LoraAdapter(
      LoraConfig config,
      ParameterSet parameters,
      Map<String, LoraLayer> layers,
      Map<String, LinearLayer> linears,
      List<Copy> copies,
      Map<String, Origin> origins,
      List<DeviceBuffer> memory) {
    this.config = config;
    this.parameters = parameters;
    this.layers = Collections.unmodifiableMap(layers);
    this.linears = Collections.unmodifiableMap(linears);
    this.copies = List.copyOf(copies);
    this.origins = origins;
    this.memory = memory;
  }

  /**
   * Memory for an adapter of the targeted layers among {@code linears}; the caller fills it ({@link
   * #initialise}).
   *
   * @throws InputException when a target names no layer
   */
  public static LoraAdapter allocate(
      KernelPack pack, LoraConfig config, List<LinearLayer> linears) {
    config.targets().select(linears, LinearLayer::name);
    return allocate(pack, config, linears, linears);
  }

  /** The same for a whole model, whose other modules and biases may be trained too. */
  public static LoraAdapter allocate(KernelPack pack, LoraConfig config, DecoderModel model) {
    config.targets().select(model.linears(), LinearLayer::name);
    return allocate(pack, config, model.linears(), model.modules());
  }

  private static LoraAdapter allocate(
      KernelPack pack,
      LoraConfig config,
      List<LinearLayer> linears,
      List<? extends TrainableModule> modules) {
    ParameterSet parameters = new ParameterSet(pack);
    Map<String, LoraLayer> layers = new LinkedHashMap<>();
    Map<String, LinearLayer> adapted = new LinkedHashMap<>();
    Map<String, Origin> origins = new HashMap<>();
    List<DeviceBuffer> memory = new ArrayList<>();
    LoraAdapter made = null;
    try {
      for (LinearLayer linear : linears) {
        String name = linear.name();
        if (!config.targets(name)) {
          continue;
        }
        int rank = config.rank(name);
        Parameter a = parameters.add(PeftAdapterFile.aName(name), rank, linear.in());
        Parameter b = parameters.add(PeftAdapterFile.bName(name), linear.out(), rank);
        DoraMagnitude dora = null;
        if (config.dora()) {
          dora =
              new DoraMagnitude(
                  parameters.add(PeftAdapterFile.magnitudeName(name), linear.out()),
                  tensor(pack, memory, linear.out()));
        }
        layers.put(name, new LoraLayer(a, b, config.scaling(name), (float) config.dropout(), dora));
        adapted.put(name, linear);
        if (config.init().kind() == LoraInit.Kind.PISSA) {
          origins.put(
              name,
              new Origin(
                  tensor(pack, memory, rank, linear.in()),
                  tensor(pack, memory, linear.out(), rank)));
        }
      }
      made =
          new LoraAdapter(
              config,
              parameters,
              layers,
              adapted,
              copies(config, parameters, layers.keySet(), modules),
              origins,
              memory);
      return made;
    } finally {
      if (made == null) {
        parameters.close();
        memory.forEach(DeviceBuffer::close);
      }
    }
  }

  private static DeviceTensor tensor(KernelPack pack, List<DeviceBuffer> memory, long... shape) {
    long bytes = Arrays.stream(shape).reduce(Float.BYTES, Math::multiplyExact);
    DeviceBuffer buffer = DeviceBuffer.allocate(pack, bytes);
    memory.add(buffer);
    return DeviceTensor.of(buffer, 0, DType.F32, shape);
  }

  private static List<Copy> copies(
      LoraConfig config,
      ParameterSet parameters,
      Set<String> adapted,
      List<? extends TrainableModule> modules) {
    AdapterPlaces.checkModules(config, modules.stream().map(TrainableModule::name).toList());
    List<Copy> copies = new ArrayList<>();
    for (TrainableModule module : modules) {
      String name = module.name();
      boolean whole = config.saves(name);
      boolean bias =
          module.biasLength() > 0 && (whole || config.bias().trains(adapted.contains(name)));
      if (!whole && !bias) {
        continue;
      }
      copies.add(
          new Copy(
              module,
              whole
                  ? parameters.add(PeftAdapterFile.PREFIX + name + ".weight", module.weightShape())
                  : null,
              bias
                  ? parameters.add(
                      PeftAdapterFile.biasName(name, adapted.contains(name)), module.biasLength())
                  : null));
    }
    return copies;
  }

  /** As {@link #initialise(long, DType, WeightDecomposition)}, computing in f32. */
  public void initialise(long seed) {
    initialise(seed, DType.F32, null);
  }

  /**
   * Begins by the rule of {@link LoraConfig#init}. With {@link LoraInit.Kind#KAIMING}, PEFT's
   * default, a is uniform in (-1/sqrt(in), 1/sqrt(in)) (Kaiming with a = sqrt(5)) and b zero.
   * Magnitudes begin as the norms of the rows, copies as what they are copies of.
   *
   * @param compute in which the model computes, and so the norms are taken
   * @param decomposition of the base's weights; needed where the beginning comes from them
   */
  public void initialise(long seed, DType compute, @Nullable WeightDecomposition decomposition) {
    SplittableRandom random = new SplittableRandom(seed);
    layers.forEach(
        (name, layer) -> {
          DeviceTensor a = layer.a().value();
          DeviceTensor b = layer.b().value();
          switch (config.init().kind()) {
            case KAIMING -> {
              fill(a, random, 1 / Math.sqrt((double) a.cols()));
              b.zero();
            }
            case UNIFORM -> {
              fill(a, random, 1 / Math.sqrt((double) a.cols()));
              fill(b, random, 1 / Math.sqrt((double) b.cols()));
            }
            case GAUSSIAN -> {
              float[] values = new float[Math.toIntExact(a.elements())];
              for (int i = 0; i < values.length; i++) {
                values[i] = (float) (random.nextGaussian() / layer.rank());
              }
              a.copyFrom(values);
              b.zero();
            }
            case PISSA, LOFTQ ->
                Objects.requireNonNull(decomposition, "a decomposition of the weights")
                    .copyTo(name, a, b);
          }
          Origin origin = origins.get(name);
          if (origin != null) {
            origin.a().copyFrom(a);
            origin.b().copyFrom(b);
          }
          LinearLayer linear = Objects.requireNonNull(linears.get(name));
          if (layer.dora() != null) {
            linear.initialiseMagnitudes(layer, compute);
          }
        });
    for (Copy copy : copies) {
      if (copy.weight() != null) {
        copy.module().copyWeight(copy.weight().value());
      }
      if (copy.bias() != null) {
        copy.module().copyBias(copy.bias().value());
      }
    }
  }

  private static void fill(DeviceTensor tensor, SplittableRandom random, double bound) {
    float[] values = new float[Math.toIntExact(tensor.elements())];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) ((2 * random.nextDouble() - 1) * bound);
    }
    tensor.copyFrom(values);
  }

  /**
   * Puts the adapter onto the layers it was made for, and takes any other off those of {@code all}
   * that it has nothing for.
   */
  public void attach(List<LinearLayer> all) {
    for (LinearLayer linear : all) {
      linear.setLora(layers.get(linear.name()));
    }
    layers.values().stream()
        .map(LoraLayer::dora)
        .filter(Objects::nonNull)
        .forEach(DoraMagnitude::invalidate);
    copies.forEach(copy -> copy.module().replace(copy.weight(), copy.bias()));
  }

  /** Takes the adapter off its layers; the model computes as it did without. */
  public void detach() {
    linears.values().forEach(linear -> linear.setLora(null));
    copies.forEach(copy -> copy.module().replace(null, null));
  }

  /** Reads an adapter in PEFT's format and puts it onto the model's linear layers. */
  public static LoraAdapter load(KernelPack pack, Path directory, List<LinearLayer> linears) {
    LoraAdapter adapter = read(pack, directory, linears, linears, null);
    adapter.attach(linears);
    return adapter;
  }

  /** Reads an adapter in PEFT's format and puts it onto the model. */
  public static LoraAdapter load(KernelPack pack, Path directory, DecoderModel model) {
    LoraAdapter adapter = read(pack, directory, model, null);
    adapter.attach(model.linears());
    return adapter;
  }

  /**
   * Reads an adapter in PEFT's format, to be attached later.
   *
   * @param dropout to train on with, or null for the file's own
   * @throws InputException when it does not fit the model
   */
  public static LoraAdapter read(
      KernelPack pack, Path directory, DecoderModel model, @Nullable Double dropout) {
    return read(pack, directory, model.linears(), model.modules(), dropout);
  }

  private static LoraAdapter read(
      KernelPack pack,
      Path directory,
      List<LinearLayer> linears,
      List<? extends TrainableModule> modules,
      @Nullable Double dropout) {
    try (PeftAdapterFile file = PeftAdapterFile.open(directory)) {
      AdapterPlaces.of(linears, modules).check(directory, file);
      LoraConfig config = file.config().lora();
      if (dropout != null) {
        config = config.withDropout(dropout);
      }
      Set<String> found = file.pairs().keySet();
      Set<String> chosen =
          new TreeSet<>(linears.stream().map(LinearLayer::name).filter(config::targets).toList());
      if (!chosen.equals(found)) {
        // The options can mean more layers than have tensors; the tensors count.
        config = config.withTargets(TargetModules.of(List.copyOf(found)));
      }
      LoraAdapter adapter = allocate(pack, config, linears, modules);
      boolean read = false;
      try {
        if (!pack.isDryRun()) {
          adapter.readFrom(pack, file);
          SavedEmbedding.check(pack, file, modules);
        }
        read = true;
        return adapter;
      } finally {
        if (!read) {
          adapter.close();
        }
      }
    }
  }

  /**
   * Checks that everything in an adapter in PEFT's format has a place in a model, as reading it
   * does, before the model's weights are read.
   *
   * @throws InputException when it does not fit
   */
  public static void checkFits(Path directory, WeightNames names) {
    try (PeftAdapterFile file = PeftAdapterFile.open(directory)) {
      AdapterPlaces.of(names).check(directory, file);
    }
  }

  private void readFrom(KernelPack pack, PeftAdapterFile file) {
    layers.forEach(
        (name, layer) -> {
          PeftAdapterFile.Pair pair = Objects.requireNonNull(file.find(name));
          WeightFiles.read(pack, pair.a(), layer.a().value());
          WeightFiles.read(pack, pair.b(), layer.b().value());
          if (layer.dora() != null) {
            WeightFiles.read(
                pack, Objects.requireNonNull(pair.magnitude()), layer.dora().magnitude().value());
          }
        });
    Map<String, TensorSource> trained = file.copies();
    for (Copy copy : copies) {
      String name = copy.module().name();
      Parameter weight = copy.weight();
      if (weight != null) {
        TensorSource source = Objects.requireNonNull(trained.get(name + ".weight"));
        WeightFiles.read(pack, source, weight.value());
      }
      Parameter bias = copy.bias();
      if (bias != null) {
        TensorSource source = trained.get(name + ".bias");
        if (source != null) {
          WeightFiles.read(pack, source, bias.value());
        } else {
          // Earlier versions of PEFT train the biases of adapted layers and do not save them.
          copy.module().copyBias(bias.value());
        }
      }
    }
  }

  /**
   * Writes the adapter in PEFT's format into {@code directory}, which exists; for an output that
   * appears whole, see {@link org.qlora4j.common.AtomicOutput}. An adapter that began as a part of
   * the base's weights is written as the difference to its beginning, of twice the rank, so that it
   * fits the base as it was.
   *
   * @param baseModel what PEFT will take for the base model's path
   */
  public void save(Path directory, String baseModel) {
    write(directory, baseModel, !origins.isEmpty());
  }

  /**
   * Writes the tensors as they are trained, under their parameters' names, for a run that goes on
   * from them.
   */
  public void saveState(Path directory, String baseModel) {
    write(directory, baseModel, false);
  }

  private void write(Path directory, String baseModel, boolean asDifference) {
    LoraConfig written = asDifference ? config.doubled() : config;
    if (written.targets().allLinear()) {
      List<String> names = TargetModules.shortNames(List.copyOf(layers.keySet()));
      written = written.withTargets(written.targets().withNames(names));
    }
    List<PeftAdapterFile.Entry> entries = new ArrayList<>();
    layers.forEach(
        (name, layer) -> {
          if (asDifference) {
            difference(name, layer, Objects.requireNonNull(origins.get(name)), entries);
          } else {
            entries.add(entry(layer.a()));
            entries.add(entry(layer.b()));
          }
          if (layer.dora() != null) {
            entries.add(entry(layer.dora().magnitude()));
          }
        });
    for (Copy copy : copies) {
      if (copy.weight() != null) {
        entries.add(entry(copy.weight()));
      }
      if (copy.bias() != null) {
        entries.add(entry(copy.bias()));
      }
    }
    PeftAdapterFile.write(directory, new PeftAdapterConfig(written, baseModel), entries);
  }

  private static PeftAdapterFile.Entry entry(Parameter parameter) {
    DeviceTensor value = parameter.value();
    return new PeftAdapterFile.Entry(
        parameter.name(), value.shape(), (writer, name) -> WeightFiles.write(writer, name, value));
  }

  /** b * a - b0 * a0 = [b, -b0] * [a; a0]. */
  private static void difference(
      String module, LoraLayer layer, Origin origin, List<PeftAdapterFile.Entry> entries) {
    DeviceTensor a = layer.a().value();
    DeviceTensor b = layer.b().value();
    entries.add(
        new PeftAdapterFile.Entry(
            PeftAdapterFile.aName(module),
            new long[] {2 * a.rows(), a.cols()},
            (writer, name) -> {
              WeightFiles.write(writer, name, a);
              WeightFiles.write(writer, name, origin.a());
            }));
    entries.add(
        new PeftAdapterFile.Entry(
            PeftAdapterFile.bName(module),
            new long[] {b.rows(), 2 * b.cols()},
            (writer, name) -> {
              int rank = (int) b.cols();
              float[] now = b.toFloats();
              float[] before = origin.b().toFloats();
              float[] both = new float[2 * now.length];
              for (int row = 0; row * rank < now.length; row++) {
                System.arraycopy(now, row * rank, both, 2 * row * rank, rank);
                for (int i = 0; i < rank; i++) {
                  both[(2 * row + 1) * rank + i] = -before[row * rank + i];
                }
              }
              writer.write(name, both);
            }));
  }

  public LoraConfig config() {
    return config;
  }

  /** Everything trained: a and b in the order of the layers, then the copies. */
  public ParameterSet parameters() {
    return parameters;
  }

  /** Bytes on the device, without gradients. */
  public long bytes() {
    return parameters.elements() * Float.BYTES
        + memory.stream().mapToLong(DeviceBuffer::bytes).sum();
  }

  /** The adapters by module path, in the order of the layers. */
  public Map<String, LoraLayer> layers() {
    return layers;
  }

  @Override
  public void close() {
    parameters.close();
    memory.forEach(DeviceBuffer::close);
    memory.clear();
  }
}
