// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.data.Dataset;
import org.qlora4j.data.Example;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.generate.SamplingConfig;
import org.qlora4j.generate.TextGenerator;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.Pass;
import org.qlora4j.model.WeightFiles;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.TensorArena;

/**
 * A whole training run: configuration, model, examples, optimizer steps, checkpoints, result.
 *
 * <p>Below {@code output_dir}: {@code metrics.jsonl}, {@code checkpoints/checkpoint-N} and, when the run is done, {@code adapter}
 * (PEFT's format) or {@code model} (method full). Checkpoints and result appear whole or not at all.
 */
public final class TrainingRun implements AutoCloseable {

  /** Directory of the result below output_dir, when an adapter is trained. */
  public static final String ADAPTER = "adapter";

  /** Directory of the result below output_dir, for method full. */
  public static final String MODEL = "model";

  private static final String CHECKPOINTS = "checkpoints";
  private static final String METRICS = "metrics.jsonl";
  private static final String OPTIMIZER = "optimizer.safetensors";
  private static final String FIRST_MOMENT = "exp_avg.";
  private static final String SECOND_MOMENT = "exp_avg_sq.";

  private final TrainConfig config;
  private final Progress progress;
  private final List<AutoCloseable> resources = new ArrayList<>();
  private final KernelPack pack;
  private final Tokenizer tokenizer;
  private final TrainingData data;
  private final String modelFingerprint;
  private final DecoderModel model;
  private final @Nullable LoraAdapter adapter;
  private final ParameterSet trained;
  private final AdamWOptimizer optimizer;
  private final Pass pass;
  private final Trainer trainer;
  private final Dataset.Plan plan;
  private final int totalSteps;

  private int step = 0;
  private double initialEvalLoss = Double.NaN;
  private double trainedSeconds = 0;
  private long trainedTokens = 0;

  private TrainingRun(TrainConfig config, Progress progress) {
    this.config = config;
    this.progress = progress;
    ModelConfig modelConfig = ModelConfig.read(config.model());
    this.tokenizer = own(Tokenizer.load(config.model()));
    this.data = TrainingData.load(config.data(), tokenizer, modelConfig, progress);
    this.plan =
        data.train()
            .plan(
                config.schedule().microBatchSize(),
                config.schedule().gradientAccumulationSteps(),
                config.data().shuffle(),
                config.data().dataSeed());
    this.totalSteps = config.schedule().totalSteps(plan.stepsPerEpoch());

    this.pack = own(KernelPack.open(PackOptions.defaults().withThreads(config.threads())));
    progress.message("kernel pack " + pack.name() + ", " + pack.threads() + " threads");
    DType compute = config.compute() == TrainConfig.Compute.FLOAT32 ? DType.F32 : DType.BF16;
    if (config.init() == TrainConfig.Init.RANDOM) {
      this.modelFingerprint = "";
      this.model = own(ModelLoader.random(pack, modelConfig, compute, config.seed()));
    } else {
      try (ModelCheckpoint checkpoint = ModelCheckpoint.open(config.model())) {
        this.modelFingerprint = checkpoint.fingerprint();
        ModelLoader.Options options = new ModelLoader.Options(compute, quantization(config), !config.method().adapter());
        this.model = own(ModelLoader.load(pack, modelConfig, checkpoint, options, progress));
      }
    }
    ParameterSet weights = model.weights();
    if (weights != null) {
      this.adapter = null;
      this.trained = weights;
    } else {
      LoraAdapter made = own(LoraAdapter.allocate(pack, loraConfig(config.lora()), model.linears()));
      made.initialise(config.seed());
      made.attach(model.linears());
      this.adapter = made;
      this.trained = made.parameters();
    }
    trained.allocateGradients();
    this.optimizer = own(new AdamWOptimizer(pack, trained, optimizerSettings(config.optimizer())));
    TensorArena arena = own(new TensorArena(pack));
    LoraCompute loraCompute =
        config.lora().precision() == TrainConfig.LoraPrecision.FLOAT32 ? LoraCompute.F32 : LoraCompute.FAST;
    this.pass = new Pass(pack, arena, compute, loraCompute, config.seed(), 0, 0, true);
    this.trainer =
        new Trainer(
            model,
            trained,
            optimizer,
            s -> config.optimizer().learningRate() * config.schedule().factor(s, totalSteps),
            pass,
            new DecoderModel.StepOptions(config.gradientCheckpointing(), config.lossChunk()));
  }

  /**
   * Runs a training to its end.
   *
   * @param resume go on from the newest checkpoint below output_dir, or from the start where there is none
   * @throws InputException for whatever the user can fix
   */
  public static TrainingSummary run(TrainConfig config, boolean resume, Progress progress) {
    TrainingRun run = null;
    try {
      run = new TrainingRun(config, progress);
      return run.run(resume);
    } finally {
      if (run != null) {
        run.close();
      }
    }
  }

  private TrainingSummary run(boolean resume) {
    progress.message(
        String.format(
            Locale.ROOT,
            "%,d of %,d parameters are trained; %d steps",
            trained.elements(),
            WeightNames.of(model.config()).parameters(),
            totalSteps));
    long metricsBytes = resume ? restore() : startAnew();
    List<String> before;
    Trainer.@Nullable StepResult last = null;
    try (Metrics metrics = new Metrics(config.outputDir().resolve(METRICS), metricsBytes)) {
      before = step == 0 ? samples("before training") : List.of();
      if (step == 0) {
        initialEvalLoss = evaluate(metrics);
      }
      last = steps(metrics);
      double finalEvalLoss = evaluate(metrics);
      List<String> after = samples("after training");
      Path output = writeResult();
      return summary(output, last, finalEvalLoss, before, after);
    }
  }

  private Trainer.@Nullable StepResult steps(Metrics metrics) {
    Trainer.StepResult result = null;
    TrainConfig.Output output = config.output();
    progress.start("training", totalSteps);
    long startedAt = System.nanoTime();
    int firstStep = step;
    while (step < totalSteps) {
      long start = System.nanoTime();
      result = trainer.step(step, plan.step(step));
      double seconds = (System.nanoTime() - start) / 1e9;
      step++;
      trainedSeconds += seconds;
      trainedTokens += result.tokens();
      double left = (System.nanoTime() - startedAt) / 1e9 / (step - firstStep) * (totalSteps - step);
      progress.update(
          step,
          String.format(
              Locale.ROOT,
              "loss %.4f, lr %.2e, %,.0f tokens/s, %s left, %s",
              result.loss(),
              result.learningRate(),
              result.tokens() / seconds,
              Text.duration(left),
              Text.bytes(MemoryUse.now().residentBytes())));
      if (every(output.loggingSteps()) || step == totalSteps) {
        metrics.add(metricsLine(result, seconds));
      }
      if (every(output.evalSteps()) && step < totalSteps) {
        double loss = evaluate(metrics);
        progress.message(String.format(Locale.ROOT, "step %d: held-out loss %.4f", step, loss));
        progress.start("training", totalSteps);
      }
      if (every(output.saveSteps()) && step < totalSteps) {
        saveCheckpoint(metrics.bytes());
      }
    }
    progress.finish();
    return result;
  }

  private boolean every(int steps) {
    return steps > 0 && step % steps == 0;
  }

  /** Mean loss on the held-out examples, NaN when there are none. */
  private double evaluate(Metrics metrics) {
    if (data.eval().size() == 0) {
      return Double.NaN;
    }
    progress.start("evaluating", data.eval().size());
    double loss = trainer.evaluate(data.eval().inOrder(config.schedule().microBatchSize()));
    progress.finish();
    ObjectNode line = Json.newObject();
    line.put("step", step);
    line.put("eval_loss", loss);
    metrics.add(line);
    return loss;
  }

  private ObjectNode metricsLine(Trainer.StepResult result, double seconds) {
    ObjectNode line = Json.newObject();
    line.put("step", step);
    line.put("epoch", (double) step / plan.stepsPerEpoch());
    line.put("loss", result.loss());
    line.put("grad_norm", result.gradNorm());
    line.put("learning_rate", result.learningRate());
    line.put("tokens", result.tokens());
    line.put("label_tokens", result.labelTokens());
    line.put("seconds", seconds);
    line.put("tokens_per_s", result.tokens() / seconds);
    line.put("resident_bytes", MemoryUse.now().residentBytes());
    return line;
  }

  // ---------------------------------------------------------------- checkpoints and result

  private Path checkpoints() {
    return config.outputDir().resolve(CHECKPOINTS);
  }

  /** Keeps what an earlier run left, out of the way. Gives the metrics' length, 0. */
  private long startAnew() {
    try {
      Files.createDirectories(config.outputDir());
      if (!TrainingState.list(checkpoints()).isEmpty()) {
        Path kept = unused("earlier");
        Files.createDirectory(kept);
        Files.move(checkpoints(), kept.resolve(CHECKPOINTS));
        Path metrics = config.outputDir().resolve(METRICS);
        if (Files.exists(metrics)) {
          Files.move(metrics, kept.resolve(METRICS));
        }
        progress.message("checkpoints of an earlier run were moved to " + kept + "; --resume would have gone on from them");
      }
    } catch (IOException e) {
      throw new InputException("cannot write to output_dir " + config.outputDir() + ": " + e, e);
    }
    return 0;
  }

  private Path unused(String name) {
    Path path = config.outputDir().resolve(name + "-1");
    for (int i = 2; Files.exists(path); i++) {
      path = config.outputDir().resolve(name + "-" + i);
    }
    return path;
  }

  /** Restores the newest checkpoint, if there is one. Gives the length the metrics had then. */
  private long restore() {
    List<Path> found = TrainingState.list(checkpoints());
    if (found.isEmpty()) {
      progress.message("no checkpoint below " + config.outputDir() + " yet; starting from the beginning");
      return startAnew();
    }
    Path directory = found.get(found.size() - 1);
    TrainingState state = TrainingState.read(directory);
    List<String> differences = new ArrayList<>(config.differencesFrom(state.settings()));
    if (!state.modelFingerprint().equals(modelFingerprint)) {
      differences.add("model: its weights are not those of the checkpoint's run");
    }
    if (!state.dataFingerprint().equals(data.train().fingerprint())) {
      differences.add("training examples: they are not those of the checkpoint's run");
    }
    if (!differences.isEmpty()) {
      throw new InputException(
          "cannot resume from " + directory + ", the run has changed: " + String.join("; ", differences)
              + "; undo the changes, or train anew without --resume");
    }
    List<String> names = trained.parameters().stream().map(Parameter::name).toList();
    WeightFiles.read(
        directory.resolve(weightsFile()), names, trained.parameters().stream().map(Parameter::value).toList());
    WeightFiles.read(
        directory.resolve(OPTIMIZER), names.stream().map(n -> FIRST_MOMENT + n).toList(), optimizer.firstMoments());
    WeightFiles.read(
        directory.resolve(OPTIMIZER), names.stream().map(n -> SECOND_MOMENT + n).toList(), optimizer.secondMoments());
    optimizer.setSteps(state.step());
    step = state.step();
    initialEvalLoss = state.initialEvalLoss();
    trainedSeconds = state.trainedSeconds();
    trainedTokens = state.trainedTokens();
    progress.message("resumed after step " + step + " from " + directory);
    return state.metricsBytes();
  }

  private String weightsFile() {
    return adapter == null ? ModelCheckpoint.SINGLE_FILE : org.qlora4j.checkpoint.PeftAdapterFile.WEIGHTS_FILE;
  }

  private void saveCheckpoint(long metricsBytes) {
    try (AtomicOutput out = AtomicOutput.directory(TrainingState.directory(checkpoints(), step))) {
      writeWeights(out.path(), DType.F32);
      List<String> names = new ArrayList<>();
      trained.parameters().forEach(p -> names.add(FIRST_MOMENT + p.name()));
      trained.parameters().forEach(p -> names.add(SECOND_MOMENT + p.name()));
      var moments = new ArrayList<>(optimizer.firstMoments());
      moments.addAll(optimizer.secondMoments());
      WeightFiles.write(out.path().resolve(OPTIMIZER), names, moments);
      new TrainingState(
              step,
              totalSteps,
              config.trainingSettings(),
              modelFingerprint,
              data.train().fingerprint(),
              metricsBytes,
              initialEvalLoss,
              trainedSeconds,
              trainedTokens)
          .write(out.path());
      out.commit();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write a checkpoint below " + checkpoints(), e);
    }
    TrainingState.prune(checkpoints(), config.output().saveTotalLimit());
  }

  private Path writeResult() {
    Path target = config.outputDir().resolve(adapter == null ? MODEL : ADAPTER);
    try (AtomicOutput out = AtomicOutput.directory(target)) {
      DType stored = model.config().dtype();
      writeWeights(out.path(), stored == null ? DType.F32 : stored);
      out.commit();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write the result to " + target, e);
    }
    return target;
  }

  /** The adapter in PEFT's format, or the whole model as a Hugging Face directory. */
  private void writeWeights(Path directory, DType type) throws IOException {
    if (adapter != null) {
      adapter.save(directory, config.model().toString());
      return;
    }
    WeightFiles.write(pack, trained, directory, type);
    String name = type == DType.BF16 ? "bfloat16" : type == DType.F16 ? "float16" : "float32";
    ModelCheckpoint.copyCompanions(config.model(), directory, name);
  }

  // ---------------------------------------------------------------- samples and summary

  private List<String> samples(String when) {
    List<String> texts = new ArrayList<>();
    TrainConfig.Samples samples = config.samples();
    Pass inference = Pass.inference(pack, pass.arena(), pass.compute(), pass.loraCompute());
    TextGenerator generator = new TextGenerator(model, inference, tokenizer.stopIds());
    SamplingConfig sampling =
        new SamplingConfig(
            samples.maxNewTokens(),
            samples.temperature(),
            samples.topK(),
            samples.topP(),
            samples.repetitionPenalty(),
            config.seed());
    progress.start("generating samples", samples.prompts().size());
    for (String prompt : samples.prompts()) {
      int[] ids =
          data.chat()
              ? data.encoder().encodeChatPrompt(List.of(new Example.Message("user", prompt)))
              : data.encoder().encodePrompt(prompt);
      String text = tokenizer.decode(generator.generate(ids, sampling));
      texts.add(text);
      progress.update(texts.size(), when);
      progress.message("sample " + when + ": " + Text.oneLine(prompt) + " → " + Text.oneLine(text));
    }
    progress.finish();
    return texts;
  }

  private TrainingSummary summary(
      Path output, Trainer.@Nullable StepResult last, double finalEvalLoss, List<String> before, List<String> after) {
    List<TrainingSummary.Sample> samples = new ArrayList<>();
    for (int i = 0; i < after.size(); i++) {
      samples.add(
          new TrainingSummary.Sample(
              config.samples().prompts().get(i), i < before.size() ? before.get(i) : "", after.get(i)));
    }
    long trainedBytes = trained.elements() * Float.BYTES;
    return new TrainingSummary(
        output,
        step,
        trained.elements(),
        WeightNames.of(model.config()).parameters(),
        initialEvalLoss,
        finalEvalLoss,
        last == null ? Double.NaN : last.loss(),
        trainedSeconds,
        trainedTokens / trainedSeconds,
        MemoryUse.now().peakBytes(),
        new TrainingSummary.Memory(
            model.weightBytes(),
            adapter == null ? 0 : trainedBytes,
            trainedBytes,
            optimizer.stateBytes(),
            pass.arena().peakBytes()),
        samples);
  }

  // ---------------------------------------------------------------- parts of the configuration

  private static @Nullable QuantizationConfig quantization(TrainConfig config) {
    if (config.method() != TrainConfig.Method.QLORA) {
      return null;
    }
    TrainConfig.Quantization q = config.quantization();
    WeightFormat format = q.type() == TrainConfig.QuantType.NF4 ? WeightFormat.NF4 : WeightFormat.FP4;
    return new QuantizationConfig(format, q.blockSize(), q.doubleQuant());
  }

  private static LoraConfig loraConfig(TrainConfig.Lora lora) {
    return new LoraConfig(lora.rank(), lora.alpha(), lora.dropout(), lora.rslora(), lora.targetModules());
  }

  private static AdamWOptimizer.Settings optimizerSettings(TrainConfig.Optimizer o) {
    return new AdamWOptimizer.Settings(o.beta1(), o.beta2(), o.epsilon(), o.weightDecay(), o.maxGradNorm());
  }

  private <T extends AutoCloseable> T own(T resource) {
    resources.add(resource);
    return resource;
  }

  /** Releases everything, the newest first. */
  @Override
  public void close() {
    for (int i = resources.size() - 1; i >= 0; i--) {
      try {
        resources.get(i).close();
      } catch (RuntimeException e) {
        throw e;
      } catch (Exception e) {
        throw new IllegalStateException("releasing a resource failed", e);
      }
    }
    resources.clear();
  }
}
