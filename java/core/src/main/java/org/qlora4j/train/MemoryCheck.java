// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.InputException;
import org.qlora4j.common.MachineMemory;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.model.ModelConfig;

/**
 * The plan of a run that is about to start, against the memory there is.
 *
 * @param config the configuration to run, with smaller micro-batches where it asked for that
 * @param plan its plan
 */
record MemoryCheck(TrainConfig config, MemoryPlan plan) {

  /**
   * Plans for the longest examples, and refuses what does not fit.
   *
   * @param begun where a run to go on with stands, which keeps its micro-batch; null for a new one
   * @throws InputException when the run would not fit, with what would, or when the one begun had
   *     another micro-batch
   */
  static MemoryCheck of(
      TrainConfig asked,
      ModelConfig model,
      TrainingData data,
      @Nullable TrainingState begun,
      Progress progress) {
    TrainConfig config = begun == null ? asked : asBegun(asked, begun);
    if (!config.equals(asked)) {
      progress.message("auto_micro_batch: " + microBatches(config) + ", as the run began with");
    }
    boolean weights =
        config.init() == TrainConfig.Init.CHECKPOINT && ModelCheckpoint.exists(config.model());
    try (ModelCheckpoint checkpoint = weights ? ModelCheckpoint.open(config.model()) : null;
        MemoryPlanner planner = MemoryPlanner.open(config, model, checkpoint, 0)) {
      MemoryPlan plan = plan(planner, config, data);
      MachineMemory limit =
          config.memory().limit() > 0
              ? new MachineMemory(config.memory().limit(), "memory_limit")
              : MachineMemory.now();
      progress.message(
          "planned memory: "
              + Text.bytes(plan.total())
              + " for micro-batches of "
              + plan.batch()
              + " x "
              + plan.sequence()
              + " tokens"
              + (longest(data) > plan.sequence()
                  ? " on average, one of " + longest(data) + ","
                  : ",")
              + " of "
              + limit.text());
      // What a GPU has is asked for when it is allocated.
      boolean host = planner.pack().deviceKind() == DeviceKind.CPU;
      if (!host || plan.total() <= limit.bytes() || config.memory().ignorePlan()) {
        return new MemoryCheck(config, plan);
      }
      MemoryCheck smaller =
          config.memory().autoMicroBatch() && begun == null
              ? smaller(planner, config, data, limit.bytes())
              : null;
      if (smaller == null) {
        String advice =
            begun == null
                ? advice(planner, config, data, plan, limit.bytes())
                : adviceToResume(config);
        throw refusal(plan, limit, advice);
      }
      progress.message(
          "auto_micro_batch: "
              + microBatches(smaller.config())
              + ", "
              + Text.bytes(smaller.plan().total()));
      return smaller;
    }
  }

  /**
   * With the micro-batch that the run took when it began, where auto_micro_batch can have chosen
   * it. What fitted then decides the result now, whatever would fit today.
   *
   * @throws InputException where the configuration has another one: a plan for it would be that of
   *     a run that never was
   */
  private static TrainConfig asBegun(TrainConfig config, TrainingState begun) {
    TrainConfig.Schedule schedule = config.schedule();
    int size = begun.identity().number(TrainConfig.MICRO_BATCH);
    int times = begun.identity().number(TrainConfig.ACCUMULATION);
    boolean chosen =
        config.memory().autoMicroBatch()
            && size > 0
            && times > 0
            && schedule.microBatchSize() % size == 0
            && (long) size * times
                == (long) schedule.microBatchSize() * schedule.gradientAccumulationSteps();
    if (chosen) {
      return config.withSchedule(schedule.withMicroBatch(size, times));
    }
    if (size != schedule.microBatchSize()) {
      Path checkpoint = TrainingCheckpoints.path(config.outputDir(), begun.step());
      List<String> differences =
          TrainConfig.differences(
              microBatch(begun.identity().settings()), microBatch(config.trainingSettings()));
      throw new InputException(TrainingCheckpoints.changed(checkpoint, differences));
    }
    // What else is another run, the checkpoint itself refuses with what has changed.
    return config;
  }

  private static Map<String, String> microBatch(Map<String, String> settings) {
    Map<String, String> own = new HashMap<>(settings);
    own.keySet().retainAll(List.of(TrainConfig.MICRO_BATCH, TrainConfig.ACCUMULATION));
    return own;
  }

  private static String microBatches(TrainConfig config) {
    return config.schedule().microBatchSize()
        + " sequences, "
        + config.schedule().gradientAccumulationSteps()
        + " micro-batches a step";
  }

  /** The plan for a micro-batch of the longest examples. */
  private static MemoryPlan plan(MemoryPlanner planner, TrainConfig config, TrainingData data) {
    int batch =
        Math.min(
            config.schedule().microBatchSize(), Math.max(data.train().rows(), data.eval().rows()));
    long tokens = Math.max(data.train().longest(batch), data.eval().longest(batch));
    return planner.plan(
        config, Math.toIntExact((tokens + batch - 1) / batch), batch, longest(data));
  }

  private static int longest(TrainingData data) {
    return Math.max(data.train().longestExample(), data.eval().longestExample());
  }

  /** The largest micro-batch that divides the configured one and fits, or null. */
  private static @Nullable MemoryCheck smaller(
      MemoryPlanner planner, TrainConfig config, TrainingData data, long limit) {
    TrainConfig.Schedule schedule = config.schedule();
    for (int size = schedule.microBatchSize() - 1; size >= 1; size--) {
      if (schedule.microBatchSize() % size != 0) {
        continue;
      }
      int times = schedule.microBatchSize() / size;
      TrainConfig one =
          config.withSchedule(
              schedule.withMicroBatch(
                  size, Math.multiplyExact(schedule.gradientAccumulationSteps(), times)));
      MemoryPlan plan = plan(planner, one, data);
      if (plan.total() <= limit) {
        return new MemoryCheck(one, plan);
      }
    }
    return null;
  }

  private static String advice(
      MemoryPlanner planner, TrainConfig config, TrainingData data, MemoryPlan plan, long limit) {
    TrainConfig.Schedule schedule = config.schedule();
    int fits =
        MemoryPlanner.largest(
            plan.batch() - 1,
            size -> {
              TrainConfig one =
                  config.withSchedule(
                      schedule.withMicroBatch(size, schedule.gradientAccumulationSteps()));
              return plan(planner, one, data).total() <= limit;
            });
    if (fits > 0) {
      return "per_device_train_batch_size: " + fits + " fits, and auto_micro_batch: true finds it";
    }
    return config.method() != TrainConfig.Method.QLORA
        ? "method: qlora takes the least"
        : "a shorter sequence_length or gradient_checkpointing: true takes less";
  }

  private static String adviceToResume(TrainConfig config) {
    return "a resumed run keeps its micro-batch of "
        + config.schedule().microBatchSize()
        + " sequences; "
        + (config.activationOffloading()
            ? ""
            : (config.gradientCheckpointing() ? "activation_offloading" : "gradient_checkpointing")
                + ": true takes less, or ")
        + "train anew without --resume";
  }

  private static InputException refusal(MemoryPlan plan, MachineMemory limit, String advice) {
    MemoryPlan.Part largest = plan.parts().get(0);
    for (MemoryPlan.Part part : plan.parts()) {
      largest = part.bytes() > largest.bytes() ? part : largest;
    }
    return new InputException(
        "the run does not fit: planned "
            + Text.bytes(plan.total())
            + " ("
            + largest.name()
            + " "
            + Text.bytes(largest.bytes())
            + ", activations "
            + Text.bytes(plan.activations())
            + "), found "
            + limit.text()
            + "; "
            + advice
            + "; ./qlora4j plan shows every part, and ignore_memory_plan: true starts anyway");
  }
}
