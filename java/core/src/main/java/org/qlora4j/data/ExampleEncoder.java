// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.data;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;

/**
 * Turns examples into token ids and labels.
 *
 * <ul>
 *   <li>A text is learned whole.
 *   <li>Of a prompt and its completion, the completion is learned. Prompt and completion are
 *       encoded as one text; where that would change the prompt's own tokens (a token that spans
 *       both), the two are encoded apart, so that training sees the prompt exactly as generation
 *       does.
 *   <li>Of a conversation, what the assistant says is learned, with the end that the chat template
 *       gives it.
 *   <li>Texts and completions end with the end-of-sequence token, which is learned, so that the
 *       model learns to stop.
 *   <li>A sequence longer than the limit loses its end, and with it the end token: a model must not
 *       learn to stop in mid-sentence. An example that then has nothing left to learn is dropped.
 * </ul>
 */
public final class ExampleEncoder {
  /**
   * Long texts are encoded in pieces of about this many characters, cut at line ends, to bound
   * memory.
   */
  private static final int TEXT_PIECE = 4 << 20;

  private final Tokenizer tokenizer;
  private final ChatTemplate chatTemplate;
  private final int sequenceLength;
  private final boolean trainOnInputs;
  private final @Nullable Integer eosId;
  private long truncated;
  private long dropped;

  /**
   * @param sequenceLength longest sequence in tokens
   * @param trainOnInputs whether prompts and the user's messages are learned too
   * @param addEos whether an end-of-sequence token is appended and learned; the model must then
   *     have one
   */
  public ExampleEncoder(
      Tokenizer tokenizer,
      ChatTemplate chatTemplate,
      int sequenceLength,
      boolean trainOnInputs,
      boolean addEos) {
    this.tokenizer = tokenizer;
    this.chatTemplate = chatTemplate;
    this.sequenceLength = sequenceLength;
    this.trainOnInputs = trainOnInputs;
    this.eosId = addEos ? tokenizer.eosId() : null;
    if (addEos && eosId == null) {
      throw new InputException(
          "add_eos: the tokenizer and config.json name no end-of-sequence token; name one there, or set add_eos: false");
    }
  }

  /** Sequences that were cut so far. */
  public long truncated() {
    return truncated;
  }

  /** Examples that were left out so far, because nothing of them was left to learn. */
  public long dropped() {
    return dropped;
  }

  /** One example, or null where nothing is left to learn. */
  public @Nullable TokenizedExample encode(Example example) {
    TokenizedExample whole = encodeWhole(example);
    TokenizedExample cut = whole;
    if (whole.ids().length > sequenceLength) {
      truncated++;
      cut =
          new TokenizedExample(
              Arrays.copyOf(whole.ids(), sequenceLength),
              Arrays.copyOf(whole.labels(), sequenceLength));
    }
    if (cut.labelTokens() == 0) {
      dropped++;
      return null;
    }
    return cut;
  }

  private TokenizedExample encodeWhole(Example example) {
    if (example instanceof Example.Text text) {
      return text(text);
    }
    if (example instanceof Example.Completion completion) {
      return completion(completion);
    }
    return chat((Example.Chat) example);
  }

  /** All examples that have something to learn. */
  public List<TokenizedExample> encodeAll(List<Example> examples) {
    List<TokenizedExample> encoded = new ArrayList<>();
    for (Example example : examples) {
      TokenizedExample one = encode(example);
      if (one != null) {
        encoded.add(one);
      }
    }
    return encoded;
  }

  /**
   * A plain text file, cut into sequences of the longest length, one after the other; every token
   * is learned.
   */
  public List<TokenizedExample> encodeTextFile(Path file) {
    IdList ids = new IdList();
    String text = ExampleReader.readText(file);
    for (int at = 0; at < text.length(); ) {
      int end = Math.min(text.length(), at + TEXT_PIECE);
      if (end < text.length()) {
        int newline = text.lastIndexOf('\n', end);
        end =
            newline > at
                ? newline + 1
                : Character.isHighSurrogate(text.charAt(end - 1)) ? end - 1 : end;
      }
      String piece = text.substring(at, end);
      ids.add(at == 0 ? tokenizer.encode(piece) : tokenizer.encodeContinuation(piece));
      at = end;
    }
    if (eosId != null) {
      ids.add(new int[] {eosId});
    }
    List<TokenizedExample> sequences = new ArrayList<>();
    for (int start = 0; start < ids.length; start += sequenceLength) {
      int[] sequence =
          Arrays.copyOfRange(ids.values, start, Math.min(ids.length, start + sequenceLength));
      if (sequence.length > 1) {
        sequences.add(new TokenizedExample(sequence, sequence.clone()));
      }
    }
    if (sequences.isEmpty()) {
      throw new InputException(
          file + ": expected a text of at least two tokens, found " + ids.length);
    }
    return sequences;
  }

  /** The ids of a prompt as generation should be given them. */
  public int[] encodePrompt(String prompt) {
    return tokenizer.encode(prompt);
  }

  /** The ids of a user's message as generation should be given them, through the chat template. */
  public int[] encodeChatPrompt(List<Example.Message> messages) {
    String whole = chatTemplate.render(messages, true);
    List<int[]> answers = new ArrayList<>();
    for (int i = 0; i < messages.size() && !chatTemplate.endsAnswers(); i++) {
      if (messages.get(i).role().equals("assistant")) {
        answers.add(
            new int[] {
              chatTemplate.render(messages.subList(0, i), true).length(),
              chatTemplate.render(messages.subList(0, i + 1), false).length()
            });
      }
    }
    return spans(whole, answers).ids();
  }

  private TokenizedExample text(Example.Text example) {
    int[] ids = withEos(tokenizer.encode(example.text()));
    return new TokenizedExample(ids, ids.clone());
  }

  private TokenizedExample completion(Example.Completion example) {
    int[] prompt = tokenizer.encode(example.prompt());
    int[] ids =
        withEos(
            join(
                prompt,
                tokenizer.encode(example.prompt() + example.completion()),
                example.completion()));
    int[] labels = ids.clone();
    if (!trainOnInputs) {
      Arrays.fill(labels, 0, prompt.length, TokenizedExample.IGNORED);
    }
    return new TokenizedExample(ids, labels);
  }

  /** `whole` when it starts with `front`, else `front` and the rest encoded apart. */
  private int[] join(int[] front, int[] whole, String rest) {
    if (startsWith(whole, front)) {
      return whole;
    }
    int[] back = tokenizer.encodeContinuation(rest);
    int[] ids = Arrays.copyOf(front, front.length + back.length);
    System.arraycopy(back, 0, ids, front.length, back.length);
    return ids;
  }

  private int[] withEos(int[] ids) {
    if (eosId == null || (ids.length > 0 && ids[ids.length - 1] == eosId)) {
      return ids;
    }
    int[] longer = Arrays.copyOf(ids, ids.length + 1);
    longer[ids.length] = eosId;
    return longer;
  }

  /**
   * A conversation: for each message of the assistant, the template is rendered up to where it
   * starts and up to where it ends; what lies between is learned. Templates that rewrite earlier
   * turns (leaving out their reasoning, say) make the earlier text differ from the whole; then only
   * the last answer is learned, as it is the only one whose context is what generation will see. A
   * template with generation blocks says itself what is learned.
   */
  private TokenizedExample chat(Example.Chat example) {
    TokenizedExample encoded;
    if (chatTemplate.marksAnswers()) {
      ChatTemplate.Rendered rendered = chatTemplate.renderMarked(example.messages(), false);
      encoded = spans(rendered.text(), rendered.answers());
    } else {
      encoded = byPrefixes(example);
    }
    return trainOnInputs ? new TokenizedExample(encoded.ids(), encoded.ids().clone()) : encoded;
  }

  private TokenizedExample byPrefixes(Example.Chat example) {
    List<Example.Message> messages = example.messages();
    String whole = chatTemplate.render(messages, false);
    List<int[]> spans = new ArrayList<>();
    for (int i = 0; i < messages.size(); i++) {
      if (messages.get(i).role().equals("assistant")) {
        String before = chatTemplate.render(messages.subList(0, i), true);
        String through = chatTemplate.render(messages.subList(0, i + 1), false);
        if (through.startsWith(before) && whole.startsWith(through)) {
          spans.add(new int[] {before.length(), through.length()});
        } else if (i == messages.size() - 1) {
          throw new InputException(
              example.source()
                  + ": the chat template writes the start of an answer differently in training and generation; "
                  + "use another with chat_template");
        } else {
          spans.clear();
        }
      }
    }
    return spans(whole, spans);
  }

  /** Encodes a text of which the given character ranges, the answers, are learned. */
  private TokenizedExample spans(String text, List<int[]> learned) {
    IdList ids = new IdList();
    IdList labels = new IdList();
    int done = 0;
    for (int[] span : learned) {
      ids.replace(encodeFrom(ids.toArray(), text, done, span[0]));
      labels.fill(ids.length, TokenizedExample.IGNORED);
      ids.replace(encodeFrom(ids.toArray(), text, span[0], span[1]));
      if (eosId != null && !chatTemplate.endsAnswers()) {
        ids.add(eosId);
      }
      for (int i = labels.length; i < ids.length; i++) {
        labels.add(ids.values[i]);
      }
      done = span[1];
    }
    if (done < text.length()) {
      ids.replace(encodeFrom(ids.toArray(), text, done, text.length()));
      labels.fill(ids.length, TokenizedExample.IGNORED);
    }
    return new TokenizedExample(ids.toArray(), labels.toArray());
  }

  /** Ids of text[0, end), given those of text[0, start), which stay as they are. */
  private int[] encodeFrom(int[] before, String text, int start, int end) {
    return join(before, encodeRendered(text.substring(0, end)), text.substring(start, end));
  }

  private int[] encodeRendered(String text) {
    return chatTemplate.placesBos() ? tokenizer.encodeInner(text) : tokenizer.encode(text);
  }

  private static boolean startsWith(int[] whole, int[] front) {
    return whole.length >= front.length
        && Arrays.equals(whole, 0, front.length, front, 0, front.length);
  }

  /** A growing list of ints. */
  private static final class IdList {
    int[] values = new int[256];
    int length;

    void add(int value) {
      if (length == values.length) {
        values = Arrays.copyOf(values, 2 * length);
      }
      values[length++] = value;
    }

    void add(int[] more) {
      if (length + more.length > values.length) {
        values = Arrays.copyOf(values, Math.max(2 * values.length, length + more.length));
      }
      System.arraycopy(more, 0, values, length, more.length);
      length += more.length;
    }

    void replace(int[] all) {
      length = 0;
      add(all);
    }

    void fill(int newLength, int value) {
      while (length < newLength) {
        add(value);
      }
    }

    int[] toArray() {
      return Arrays.copyOf(values, length);
    }
  }
}
