// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Sha256;
import org.qlora4j.common.Text;
import org.qlora4j.data.Dataset;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.generate.TextGenerator;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.lora.LoraInit;
import org.qlora4j.lora.WeightDecomposition;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.LinearLayer;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.ModelSettings;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.Pass;
import org.qlora4j.model.WeightFiles;
import org.qlora4j.model.WeightNames;
import org.qlora4j.model.WeightNames.Part;
import org.qlora4j.quant.FloatEncoding;
import org.qlora4j.quant.TrainedBase;
import org.qlora4j.tensor.TensorArena;

/**
 * A whole training run: configuration, model, examples, optimizer steps, checkpoints, result.
 *
 * <p>Below {@code output_dir}: {@code metrics.jsonl}, {@code checkpoints/checkpoint-N} and, when
 * the run is done, {@code adapter} (PEFT's format) or {@code model} (method full). Checkpoints and
 * result appear whole or not at all.
 */
public final class TrainingRun {

  /** Directory of the result below output_dir, when an adapter is trained. */
  public static final String ADAPTER = "adapter";

  /** Directory of the result below output_dir, for method full. */
  public static final String MODEL = "model";

  private static final String METRICS = "metrics.jsonl";

  private final TrainConfig config;
  private final Progress progress;
  private final KernelPack pack;
  private final Tokenizer tokenizer;
  private final TrainingData data;
  private final String modelFingerprint;
  private final @Nullable String initAdapterFingerprint;
  private final DecoderModel model;
  private final @Nullable LoraAdapter adapter;
  private final ParameterSet trained;
  private final AdamWOptimizer optimizer;
  private final @Nullable PagedInputs inputs;
  private final Pass pass;
  private final Trainer trainer;
  private final Dataset.Plan plan;
  private final MemoryPlan memoryPlan;
  private final long weightBytes;
  private final int totalSteps;
  private final TrainingCheckpoints checkpoints;

  private int step = 0;
  private double initialEvalLoss = Double.NaN;
  private Map<String, String> samplesBefore = Map.of();
  private double trainedSeconds = 0;
  private long trainedTokens = 0;

  private TrainingRun(TrainConfig asked, boolean resume, Progress progress, Resources resources) {
    this.progress = progress;
    ModelConfig modelConfig = ModelConfig.read(asked.model());
    if (asked.method().adapter()) {
      // A wrong name must not show only after a large model was read.
      asked.checkAdapter(modelConfig);
      Path begun = asked.lora().initAdapter();
      if (begun != null && absolute(begun).equals(absolute(asked.outputDir().resolve(ADAPTER)))) {
        throw new InputException(
            "output_dir "
                + asked.outputDir()
                + ": the result would replace the adapter in init_adapter that it goes on from;"
                + " choose another");
      }
    } else if (absolute(asked.model()).equals(absolute(asked.outputDir().resolve(MODEL)))) {
      throw new InputException(
          "output_dir "
              + asked.outputDir()
              + ": the result would replace the model it is made from; choose another");
    }
    checkWritable(asked.outputDir());
    if (asked.optimizer().optim().paged() || asked.activationOffloading()) {
      checkPaging(pagingDirectory(asked));
    }
    this.pack =
        resources.own(asked.device().open(PackOptions.defaults().withThreads(asked.threads())));
    progress.message(pack.description());
    this.tokenizer = resources.own(Tokenizer.load(asked.model()));
    this.data = TrainingData.load(asked.data(), tokenizer, modelConfig, progress);
    TrainingState begun = resume ? TrainingCheckpoints.newest(asked.outputDir()) : null;
    MemoryCheck memory = MemoryCheck.of(asked, modelConfig, data, begun, progress);
    this.memoryPlan = memory.plan();
    this.config = memory.config();
    TrainConfig config = this.config;
    this.plan =
        data.train()
            .plan(
                config.schedule().microBatchSize(),
                config.schedule().gradientAccumulationSteps(),
                config.data().order(),
                config.data().dataSeed());
    this.totalSteps = config.schedule().totalSteps(plan.stepsPerEpoch());

    DType compute = config.computeType();
    WeightDecomposition decomposition = null;
    if (config.init() == TrainConfig.Init.RANDOM) {
      this.modelFingerprint = "";
      this.model = resources.own(ModelLoader.random(pack, modelConfig, compute, config.seed()));
    } else {
      try (ModelCheckpoint checkpoint = ModelCheckpoint.open(config.model())) {
        this.modelFingerprint = checkpoint.fingerprint();
        ModelLoader.Options options =
            new ModelLoader.Options(compute, config.baseQuantization(), !config.method().adapter());
        LoraConfig lora = config.lora().config();
        if (config.method().adapter() && lora.init().fromWeights()) {
          decomposition =
              new WeightDecomposition(
                  pack,
                  lora,
                  WeightNames.of(modelConfig),
                  checkpoint,
                  config.baseQuantization(),
                  config.seed());
          this.model =
              resources.own(
                  ModelLoader.load(
                      pack, modelConfig, checkpoint, options, decomposition, progress));
          decomposition.decompose(model);
        } else {
          this.model =
              resources.own(ModelLoader.load(pack, modelConfig, checkpoint, options, progress));
        }
      }
    }
    Path initAdapter = config.lora().initAdapter();
    this.initAdapterFingerprint =
        initAdapter == null ? null : Sha256.of(initAdapter.resolve(PeftAdapterFile.WEIGHTS_FILE));
    this.weightBytes = pack.allocatedBytes() - pack.workspaceBytes();
    ParameterSet weights = model.weights();
    if (weights != null) {
      this.adapter = null;
      this.trained = weights;
    } else {
      LoraAdapter made = resources.own(allocate(pack, config, model));
      if (config.lora().initAdapter() == null) {
        made.initialise(config.seed(), compute, decomposition);
      }
      made.attach(model.linears());
      this.adapter = made;
      this.trained = made.parameters();
    }
    trained.allocateGradients();
    this.optimizer =
        resources.own(
            new AdamWOptimizer(
                pack,
                trained,
                optimizerSettings(config.optimizer()),
                optimizerStates(config.optimizer(), pagingDirectory(config)),
                new LoraPlusRates(
                    config.optimizer(), WeightNames.of(modelConfig).module(Part.EMBEDDING, -1))));
    this.inputs = pagedInputs(config, model, (long) memoryPlan.sequence() * memoryPlan.batch());
    if (inputs != null) {
      resources.own(inputs);
    }
    TensorArena arena = resources.own(new TensorArena(pack));
    this.pass = new Pass(pack, arena, compute, config.loraCompute(), config.seed(), 0, 0, true);
    this.trainer =
        new Trainer(
            model,
            trained,
            optimizer,
            s -> config.optimizer().learningRate() * config.schedule().factor(s, totalSteps),
            pass,
            stepOptions(config, inputs));
    this.checkpoints =
        new TrainingCheckpoints(
            config.outputDir(),
            config.output().saveTotalLimit(),
            trained,
            optimizer,
            adapter == null ? ModelCheckpoint.SINGLE_FILE : PeftAdapterFile.WEIGHTS_FILE,
            this::writeState);
  }

  /**
   * Runs a training to its end.
   *
   * @param resume go on from the newest checkpoint below output_dir, or from the start where there
   *     is none
   * @throws InputException for whatever the user can fix
   */
  public static TrainingSummary run(TrainConfig config, boolean resume, Progress progress) {
    try (Resources resources = new Resources()) {
      return new TrainingRun(config, resume, progress, resources).run(resume);
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
    long metricsBytes = start(resume);
    try (Metrics metrics = new Metrics(config.outputDir().resolve(METRICS), metricsBytes)) {
      if (step == 0) {
        samplesBefore = byPrompt(samples("before training"));
        initialEvalLoss = evaluate(metrics);
      }
      Trainer.StepResult last = steps(metrics);
      double finalEvalLoss = evaluate(metrics);
      List<String> after = samples("after training");
      Path output = writeResult();
      metrics.add(memoryLine());
      return summary(output, last, finalEvalLoss, after);
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
      double left =
          (System.nanoTime() - startedAt) / 1e9 / (step - firstStep) * (totalSteps - step);
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
      if (every(output.evalSteps()) && step < totalSteps && data.eval().size() > 0) {
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
    OptimizerMemory states = optimizer.memory();
    line.put("optimizer_state_bytes", states.totalBytes());
    line.put("optimizer_resident_bytes", states.held().residentBytes());
    if (states.paged()) {
      // Since the run began or was resumed.
      line.put("optimizer_bytes_in", states.held().bytesIn());
      line.put("optimizer_bytes_out", states.held().bytesOut());
      line.put("optimizer_page_misses", states.held().misses());
    }
    if (inputs != null) {
      line.put("activation_bytes_in", inputs.held().bytesIn());
      line.put("activation_bytes_out", inputs.held().bytesOut());
    }
    return line;
  }

  /** What was planned and what was used, in bytes. */
  private ObjectNode memoryLine() {
    ObjectNode line = Json.newObject();
    line.put("step", step);
    TrainingSummary.Memory used = memory();
    ObjectNode measured = line.putObject("memory_bytes");
    measured.put("weights", used.weights());
    measured.put("adapters", used.adapters());
    measured.put("gradients", used.gradients());
    measured.put("optimizer_states", used.optimizerStates());
    measured.put("activations", used.activations());
    measured.put("workspace", used.workspace());
    line.put("peak_bytes", MemoryUse.now().peakBytes());
    ObjectNode planned = line.putObject("planned_bytes");
    memoryPlan.parts().forEach(part -> planned.put(part.key(), part.bytes()));
    line.put("planned_peak_bytes", memoryPlan.total());
    return line;
  }

  private TrainingSummary.Memory memory() {
    long trainedBytes = trained.elements() * Float.BYTES;
    return new TrainingSummary.Memory(
        weightBytes,
        adapter == null ? 0 : adapter.bytes(),
        trainedBytes,
        optimizer.stateBytes(),
        pass.arena().peakBytes() + (inputs == null ? 0 : inputs.deviceBytes()),
        pack.workspaceBytes());
  }

  // ---------------------------------------------------------------- start, checkpoints, result

  /**
   * Restores the newest checkpoint. Gives the length the metrics had then; 0 for a run that starts
   * anew.
   */
  private long start(boolean resume) {
    recoverResult();
    TrainingState state = resume ? checkpoints.restoreNewest(identity()) : null;
    if (state == null) {
      if (resume) {
        progress.message(
            "no checkpoint below " + config.outputDir() + " yet; starting from the beginning");
      }
      checkpoints.startAnew(config.outputDir().resolve(METRICS), progress);
      return 0;
    }
    model.weightsChanged();
    step = state.step();
    initialEvalLoss = state.initialEvalLoss();
    samplesBefore = state.samplesBefore();
    trainedSeconds = state.trainedSeconds();
    trainedTokens = state.trainedTokens();
    progress.message("resumed after step " + step + " of " + totalSteps);
    if (!state.pack().isEmpty() && !state.pack().equals(pack.name())) {
      progress.message(
          "the checkpoint was computed by the kernel pack "
              + Text.cut(Text.oneLine(state.pack()), 120)
              + ": from here on, results agree with its run to rounding, not bit for bit");
    }
    return state.metricsBytes();
  }

  /** Puts an earlier result back that a run was killed over while it replaced it. */
  private void recoverResult() {
    try {
      AtomicOutput.recover(result());
    } catch (IOException e) {
      throw new InputException("cannot read output_dir " + config.outputDir() + ": " + e, e);
    }
  }

  private static Path absolute(Path path) {
    return path.toAbsolutePath().normalize();
  }

  /** An output directory that cannot be written must not show only after a large model was read. */
  private static void checkWritable(Path directory) {
    try {
      Files.createDirectories(directory);
    } catch (IOException e) {
      throw new InputException("cannot make output_dir " + directory + ": " + e, e);
    }
    if (!Files.isWritable(directory)) {
      throw new InputException("output_dir " + directory + " cannot be written; choose another");
    }
  }

  /** The output directory is on a disk, where java.io.tmpdir is memory on many machines. */
  private static Path pagingDirectory(TrainConfig config) {
    Path chosen = config.pagingDirectory();
    return chosen == null ? config.outputDir() : chosen;
  }

  private static void checkPaging(Path directory) {
    if (!Files.isDirectory(directory) || !Files.isWritable(directory)) {
      throw new InputException(
          "paging_dir: expected a directory that can be written, found " + directory);
    }
  }

  private Path result() {
    return config.outputDir().resolve(adapter == null ? MODEL : ADAPTER);
  }

  private TrainingState.Identity identity() {
    Map<String, String> settings = new HashMap<>(config.trainingSettings());
    if (initAdapterFingerprint != null) {
      settings.put("init_adapter", initAdapterFingerprint);
    }
    return new TrainingState.Identity(
        settings, ModelSettings.of(model.config()), modelFingerprint, data.train().fingerprint());
  }

  private void saveCheckpoint(long metricsBytes) {
    checkpoints.save(
        new TrainingState(
            step,
            totalSteps,
            identity(),
            pack.name(),
            metricsBytes,
            initialEvalLoss,
            samplesBefore,
            trainedSeconds,
            trainedTokens));
  }

  private Path writeResult() {
    Path target = result();
    try (AtomicOutput out = AtomicOutput.directory(target)) {
      DType stored = model.config().dtype();
      writeWeights(out.path(), stored == null ? DType.F32 : stored);
      out.commit();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write the result to " + target, e);
    }
    return target;
  }

  /**
   * The adapter in PEFT's format, or the whole model as a Hugging Face directory with its weights
   * as {@code type}.
   */
  private void writeWeights(Path directory, DType type) throws IOException {
    if (adapter != null) {
      adapter.save(directory, config.model().toString());
      trainedBase(adapter.config()).write(directory);
      return;
    }
    WeightFiles.write(pack, trained, directory, type);
    ModelCheckpoint.copyCompanions(config.model(), directory, FloatEncoding.configName(type));
  }

  /**
   * The base that the result fits. A PiSSA was trained beside what it left of the weights, and is
   * written for the weights as they were: quantized, these would have another error than the one it
   * was trained with.
   */
  private TrainedBase trainedBase(LoraConfig lora) {
    return lora.init().kind() == LoraInit.Kind.PISSA
        ? new TrainedBase(null)
        : TrainedBase.of(
            model.linears().stream().map(LinearLayer::weight).toList(), config.baseQuantization());
  }

  /** What {@link #writeWeights} writes, but of an adapter as it is trained, for a checkpoint. */
  private void writeState(Path directory) throws IOException {
    if (adapter != null) {
      adapter.saveState(directory, config.model().toString());
      trainedBase(adapter.config()).write(directory);
    } else {
      writeWeights(directory, DType.F32);
    }
  }

  /** The adapter of a run: an empty one, or the one to go on from. */
  static LoraAdapter allocate(KernelPack pack, TrainConfig config, DecoderModel model) {
    TrainConfig.Lora lora = config.lora();
    return lora.initAdapter() == null
        ? LoraAdapter.allocate(pack, lora.config(), model)
        : LoraAdapter.read(pack, lora.initAdapter(), model, lora.config().dropout());
  }

  // ---------------------------------------------------------------- samples and summary

  private List<String> samples(String when) {
    Pass inference = Pass.inference(pack, pass.arena(), pass.compute(), pass.loraCompute());
    TextGenerator generator = new TextGenerator(model, inference, tokenizer.stopIds());
    SampleTexts samples = new SampleTexts(config.samples(), config.seed(), tokenizer, data);
    return samples.generate(generator, when, progress);
  }

  private Map<String, String> byPrompt(List<String> texts) {
    Map<String, String> byPrompt = new HashMap<>();
    for (int i = 0; i < texts.size(); i++) {
      byPrompt.put(config.samples().prompts().get(i), texts.get(i));
    }
    return byPrompt;
  }

  private TrainingSummary summary(
      Path output, Trainer.@Nullable StepResult last, double finalEvalLoss, List<String> after) {
    List<TrainingSummary.Sample> samples = new ArrayList<>();
    for (int i = 0; i < after.size(); i++) {
      String prompt = config.samples().prompts().get(i);
      // A resumed run may have other prompts than the one that began.
      String before = samplesBefore.getOrDefault(prompt, "");
      samples.add(new TrainingSummary.Sample(prompt, before, after.get(i)));
    }
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
        memory(),
        optimizer.memory(),
        memoryPlan,
        data.chat(),
        samples);
  }

  // ---------------------------------------------------------------- parts of the configuration

  /** Where what micro-batches of at most {@code tokens} keep goes, or null: into the arena. */
  static @Nullable PagedInputs pagedInputs(TrainConfig config, DecoderModel model, long tokens) {
    int groups = (model.config().layers() - 1) / config.checkpointEvery();
    if (!config.activationOffloading() || groups == 0) {
      return null;
    }
    long bytes = model.groupBytes(stepOptions(config, null), config.computeType(), tokens);
    return new PagedInputs(model.pack(), groups, bytes, pagingDirectory(config));
  }

  static DecoderModel.StepOptions stepOptions(TrainConfig config, @Nullable PagedInputs inputs) {
    return new DecoderModel.StepOptions(
        config.gradientCheckpointing(),
        config.checkpointEvery(),
        config.checkpointSave(),
        config.lossChunk(),
        inputs,
        config.regularization());
  }

  private static AdamWOptimizer.Settings optimizerSettings(TrainConfig.Optimizer o) {
    return new AdamWOptimizer.Settings(
        o.beta1(), o.beta2(), o.epsilon(), o.weightDecay(), o.maxGradNorm());
  }

  private static AdamWOptimizer.States optimizerStates(
      TrainConfig.Optimizer o, Path pagingDirectory) {
    return new AdamWOptimizer.States(
        o.optim().eightBit(),
        o.optim().paged() ? new AdamWOptimizer.Paging(o.memoryBudget(), pagingDirectory) : null);
  }
}
