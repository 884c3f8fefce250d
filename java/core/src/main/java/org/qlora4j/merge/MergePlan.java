// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.merge;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.model.WeightNames.Part;
import org.qlora4j.quant.DenseRows;
import org.qlora4j.quant.QuantizedTensors;

/**
 * What becomes of every tensor of a model with an adapter: it stays, the product of two matrices is
 * added to it, or a trained tensor takes its place. Everything that the adapter has is used, or
 * refused. A head that shares the embedding's tensor gets one of its own where the adapter changes
 * either.
 */
final class MergePlan {
  private static final String WEIGHT = ".weight";

  /**
   * A tensor of the result.
   *
   * @param base in whose place it comes, under the name of the result
   * @param copy the adapter's tensor that takes its place, or null
   * @param pair what is added to the base, or null
   */
  record Tensor(
      TensorSource base, @Nullable TensorSource copy, PeftAdapterFile.@Nullable Pair pair) {
    String name() {
      return base.name();
    }

    /** Where the values come from. */
    TensorSource source() {
      return copy == null ? base : copy;
    }
  }

  private final ModelCheckpoint checkpoint;
  private final PeftAdapterFile adapter;
  private final Path adapterDirectory;
  private final Map<String, TensorSource> bases = new LinkedHashMap<>();
  private final Map<String, Tensor> tensors = new LinkedHashMap<>();

  /** What the adapter saved of the embedding and the head, by the names in {@code bases}. */
  private final Map<String, TensorSource> saved;

  private final boolean separatesHead;

  /**
   * Finds the place of everything that the adapter has.
   *
   * @param modelDirectory where {@code config}, the model's config.json, is from
   * @throws InputException for what has no place
   */
  MergePlan(
      ModelCheckpoint checkpoint,
      Path modelDirectory,
      ObjectNode config,
      PeftAdapterFile adapter,
      Path adapterDirectory) {
    this.checkpoint = checkpoint;
    this.adapter = adapter;
    this.adapterDirectory = adapterDirectory;
    for (TensorSource tensor : checkpoint.tensors()) {
      if (!QuantizedTensors.isSideTensor(checkpoint, tensor.name())) {
        bases.put(tensor.name(), tensor);
      }
    }
    this.saved = new LinkedHashMap<>(adapter.saved());
    this.separatesHead = separateHead(modelDirectory, config);
    adapter.pairs().values().forEach(this::checkPair);
    adapter.copies().forEach(this::checkCopy);
    saved.forEach(this::checkCopy);
    checkComplete();
    bases.forEach(
        (name, base) -> {
          TensorSource trained = adapter.copies().get(name);
          TensorSource copy = trained == null ? saved.get(name) : trained;
          tensors.put(
              name,
              new Tensor(base, copy == null ? null : new RenamedTensor(name, copy), pairOf(name)));
        });
  }

  private PeftAdapterFile.@Nullable Pair pairOf(String weight) {
    return weight.endsWith(WEIGHT)
        ? adapter.find(weight.substring(0, weight.length() - WEIGHT.length()))
        : null;
  }

  private boolean changes(String weight) {
    return pairOf(weight) != null || adapter.copies().containsKey(weight);
  }

  /** Makes two of a tensor that is the embedding and the head, where the adapter changes one. */
  private boolean separateHead(Path modelDirectory, ObjectNode config) {
    // What is in the blocks has the number of its block in its path; norms have no matrix.
    boolean candidates =
        !saved.isEmpty()
            || Stream.concat(
                    adapter.pairs().keySet().stream(),
                    adapter.copies().entrySet().stream()
                        .filter(copy -> copy.getValue().shape().length == 2)
                        .map(Map.Entry::getKey))
                .anyMatch(path -> path.chars().noneMatch(Character::isDigit));
    if (!candidates || !config.path("tie_word_embeddings").asBoolean(true)) {
      return false;
    }
    ModelConfig model = ModelConfig.read(modelDirectory);
    WeightNames names = WeightNames.of(model);
    WeightNames.Module embedding = names.module(Part.EMBEDDING, -1);
    WeightNames.Module head = names.module(Part.HEAD, -1);
    if (!model.tiedHead()) {
      return false;
    }
    boolean separate = changes(embedding.weight()) || changes(head.weight());
    List<String> both = List.of(embedding.weight(), head.weight());
    shareSaved(
        embedding.weight(),
        head.weight(),
        separate ? both : both.stream().filter(bases::containsKey).toList());
    if (!separate) {
      return false;
    }
    if (pairOf(embedding.weight()) != null) {
      throw new InputException(
          adapterDirectory
              + ": the adapter changes "
              + Text.quote(embedding.path())
              + ", an embedding; expected lora_A and lora_B of linear layers only");
    }
    TensorSource shared = names.weight(checkpoint, embedding);
    both.forEach(name -> bases.put(name, new RenamedTensor(name, shared)));
    return true;
  }

  /** A tensor saved of what the base has as one is that of both. */
  private void shareSaved(String embedding, String head, List<String> places) {
    TensorSource first = saved.remove(embedding);
    TensorSource second = saved.remove(head);
    TensorSource one = first == null ? second : first;
    if (first != null && second != null && !first.hasSameBytes(second)) {
      throw new InputException(
          first.file()
              + ": tensors "
              + Text.quote(first.name())
              + " and "
              + Text.quote(second.name())
              + ": expected the same values, as the model has one tensor for both, found others");
    }
    if (one != null) {
      places.forEach(name -> saved.put(name, one));
    }
  }

  private void checkPair(PeftAdapterFile.Pair pair) {
    String name = pair.module() + WEIGHT;
    TensorSource base = bases.get(name);
    long[] shape = base == null ? new long[0] : shape(base);
    if (!Arrays.equals(shape, new long[] {pair.out(), pair.in()})) {
      throw new InputException(
          adapterDirectory
              + ": the adapter of "
              + Text.quote(pair.module())
              + " is ["
              + pair.out()
              + ", "
              + pair.in()
              + "], the model has "
              + (base == null ? "no such weight" : Arrays.toString(shape) + " there")
              + nearest(base, name)
              + "; was the adapter trained on another base?");
    }
    if (adapter.copies().containsKey(name)) {
      throw new InputException(
          adapterDirectory
              + ": expected an adapter or a trained copy of "
              + Text.quote(pair.module())
              + ", found both");
    }
  }

  private void checkCopy(String name, TensorSource copy) {
    TensorSource base = bases.get(name);
    boolean replaceable =
        base != null
            && (QuantizedTensors.isQuantized(checkpoint, name)
                || ModelMerger.isFloating(base.storedType()));
    long[] shape = base == null ? new long[0] : shape(base);
    if (!replaceable || !Arrays.equals(shape, copy.shape())) {
      throw new InputException(
          copy.file()
              + ": tensor "
              + Text.quote(copy.name())
              + " is "
              + Arrays.toString(copy.shape())
              + ", the model has "
              + (base == null
                  ? "no such tensor"
                  : base.storedType() + " " + Arrays.toString(shape) + " there")
              + nearest(base, name)
              + "; was the adapter trained on another base?");
    }
  }

  private String nearest(@Nullable TensorSource base, String name) {
    String near = base == null ? Text.nearest(name, bases.keySet()) : null;
    return near == null ? "" : ", the nearest is " + Text.quote(near);
  }

  /** Modules that modules_to_save names are there, and are in the adapter. */
  private void checkComplete() {
    LoraConfig lora = adapter.config().lora();
    for (String base : bases.keySet()) {
      if (base.endsWith(WEIGHT)
          && lora.saves(base.substring(0, base.length() - WEIGHT.length()))
          && !adapter.copies().containsKey(base)) {
        throw new InputException(
            adapterDirectory.resolve(PeftAdapterFile.WEIGHTS_FILE)
                + ": expected a tensor "
                + Text.quote(PeftAdapterFile.PREFIX + base)
                + ", which modules_to_save names, found none");
      }
    }
    for (String module : lora.modulesToSave()) {
      if (adapter.copies().keySet().stream().noneMatch(name -> name.endsWith(module + WEIGHT))) {
        throw new InputException(
            adapterDirectory.resolve(PeftAdapterFile.WEIGHTS_FILE)
                + ": expected the weight of "
                + Text.quote(module)
                + ", which modules_to_save names, found none");
      }
    }
  }

  /** Shape of a tensor of the base as it is dequantized. */
  long[] shape(TensorSource base) {
    if (!QuantizedTensors.isQuantized(checkpoint, base.name())) {
      return base.shape();
    }
    QuantizedTensors quantized = QuantizedTensors.of(checkpoint, base.name());
    return new long[] {quantized.rows(), quantized.cols()};
  }

  /** In the checkpoint's order; a head that is new comes last. */
  Collection<Tensor> tensors() {
    return tensors.values();
  }

  /** A tensor of the result. */
  Tensor tensor(String name) {
    Tensor tensor = tensors.get(name);
    if (tensor == null) {
      throw new IllegalArgumentException("no tensor " + name + " in the result");
    }
    return tensor;
  }

  /** A weight that the adapter adds to. */
  Tensor firstMerged() {
    return tensor(adapter.pairs().keySet().iterator().next() + WEIGHT);
  }

  /** How many tensors are what the adapter saved along, with other values than the base's. */
  int savedOthers() {
    return (int)
        saved.entrySet().stream()
            .filter(each -> !adapter.copies().containsKey(each.getKey()))
            .filter(each -> !isSame(each.getValue(), bases.get(each.getKey())))
            .count();
  }

  /** Whether they have the same values, also where the base has them in 16 bits. */
  private boolean isSame(TensorSource saved, @Nullable TensorSource base) {
    if (base == null || QuantizedTensors.isQuantized(checkpoint, base.name())) {
      return false;
    }
    try (DenseRows savedRows = DenseRows.of(saved);
        DenseRows baseRows = DenseRows.of(base)) {
      return savedRows.areHeldAs(baseRows::read);
    }
  }

  /** Whether embedding and head, one tensor in the base, are two in the result. */
  boolean separatesHead() {
    return separatesHead;
  }
}
