// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.generate;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.generate.ChoiceScorer;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;

/** A language model as a classifier. */
class ChoiceScorerTest {
  private static final Path MODEL = FixtureFiles.project("examples/model");

  private interface Use {
    void with(DecoderModel model, Pass pass, Tokenizer tokenizer);
  }

  private static void use(Path adapter, boolean tuned, Use use) {
    ModelLoader.Options options = new ModelLoader.Options(DType.F32, null, false);
    try (KernelPack pack = KernelPack.openAutomatic();
        Tokenizer tokenizer = Tokenizer.load(MODEL);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(MODEL);
        DecoderModel model =
            ModelLoader.load(pack, ModelConfig.read(MODEL), checkpoint, options, Progress.none());
        LoraAdapter lora = tuned ? LoraAdapter.load(pack, adapter, model.linears()) : null;
        TensorArena arena = new TensorArena(pack)) {
      use.with(model, Pass.inference(pack, arena, DType.F32, LoraCompute.F32), tokenizer);
    }
  }

  /** Of single tokens: the softmax over their logits alone, since the rest cancels. */
  @Test
  void probabilitiesAreThoseOfTheModel() {
    use(
        MODEL,
        false,
        (model, pass, tokenizer) -> {
          int[] prompt = tokenizer.encode("이 영화는 정말");
          float[] logits;
          var mark = pass.arena().mark();
          var hidden = model.forward(pass, SequenceBatch.single(pass.arena(), prompt, 0), null);
          logits = model.logits(pass, hidden.rows(prompt.length - 1L, 1)).toFloats();
          pass.arena().release(mark);
          int[] tokens = {300, 17, 4000};
          double[] expected = new double[3];
          double sum = 0;
          for (int i = 0; i < 3; i++) {
            expected[i] = Math.exp(logits[tokens[i]]);
            sum += expected[i];
          }
          for (int i = 0; i < 3; i++) {
            expected[i] /= sum;
          }
          ChoiceScorer scorer = new ChoiceScorer(model, pass);
          List<int[]> choices = Arrays.stream(tokens).mapToObj(t -> new int[] {t}).toList();
          assertArrayEquals(expected, scorer.probabilities(prompt, choices), 1e-9);
          // A longer choice: the product over its tokens, whatever is beside it.
          double[] pair =
              scorer.probabilities(prompt, List.of(new int[] {300, 17}, new int[] {300, 18}));
          int[] longer = Arrays.copyOf(prompt, prompt.length + 1);
          longer[prompt.length] = 300;
          double[] next = scorer.probabilities(longer, List.of(new int[] {17}, new int[] {18}));
          assertArrayEquals(next, pair, 1e-6);
          assertThrows(
              InputException.class, () -> scorer.probabilities(prompt, List.of(new int[0])));
          assertThrows(
              InputException.class,
              () -> scorer.probabilities(new int[600], List.of(new int[] {1})));
        });
  }

  /** Tuned by LoRA on words that are good or bad, it tells them apart. */
  @Test
  void aTunedModelJudges(@TempDir Path folder) throws IOException {
    String[] good = {"최고의 영화", "정말 재밌어요", "감동적인 연기", "다시 보고 싶은 영화"};
    String[] bad = {"최악의 영화", "정말 지루해요", "어색한 연기", "돈이 아까운 영화"};
    Random random = new Random(20261127);
    List<String> rows = new ArrayList<>();
    for (int i = 0; i < 64; i++) {
      boolean positive = i % 2 == 0;
      String[] words = positive ? good : bad;
      String text = words[random.nextInt(4)] + ", " + words[random.nextInt(4)];
      rows.add(
          Json.compact(
              Json.newObject()
                  .put("prompt", "리뷰: " + text + " / 감정:")
                  .put("completion", positive ? " 긍정" : " 부정")));
    }
    Path data = Files.write(folder.resolve("rows.jsonl"), rows);
    TrainingRun.run(
        TrainConfigReader.parse(
            """
            model: %s
            train_file: %s
            output_dir: %s
            method: lora
            compute: float32
            lora_r: 8
            learning_rate: 3e-3
            per_device_train_batch_size: 16
            max_steps: 60
            train_on_inputs: false
            """
                .formatted(MODEL, data, folder.resolve("out")),
            "test",
            List.of()),
        false,
        Progress.none());
    use(
        folder.resolve("out/adapter"),
        true,
        (model, pass, tokenizer) -> {
          ChoiceScorer scorer = new ChoiceScorer(model, pass);
          List<String> choices = List.of(" 긍정", " 부정");
          int right = 0;
          for (int i = 0; i < 8; i++) {
            // Pairs in an order that training mostly did not see.
            String[] words = i < 4 ? good : bad;
            String prompt = "리뷰: " + words[i % 4] + ", " + words[(i + 1) % 4] + " / 감정:";
            double positive = scorer.probabilities(tokenizer, prompt, choices)[0];
            right += positive > 0.5 == i < 4 ? 1 : 0;
          }
          assertTrue(right >= 7, right + " of 8");
        });
  }
}
