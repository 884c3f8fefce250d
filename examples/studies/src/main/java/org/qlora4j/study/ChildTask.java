// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;

/**
 * Work in a process of its own that is asked for in a file and answers in another, whole or not at
 * all. An answer to the same request is taken and not made again, which is how an interrupted study
 * goes on.
 */
public final class ChildTask {
  /** Bytes of a request or an answer. */
  public static final long MAX_BYTES = 64 << 20;

  private static final String WHERE = "where";

  private ChildTask() {}

  /**
   * The answer of an earlier process to the same request, or that of a new one.
   *
   * @param main calls {@link #child} with the arguments of its main method
   * @param task names the work, and its files in {@code directory}
   * @param request what the answer depends on. A "where" in it is only for messages. A "directory"
   *     in it, where the work keeps what it goes on from, is deleted when anything else changed. A
   *     "target" in it is what the work makes, and makes again where it is gone
   * @param name of the work, for messages
   */
  public static ObjectNode answered(
      Class<?> main,
      String task,
      ObjectNode request,
      Path directory,
      Progress progress,
      String name) {
    Path asked = directory.resolve(task + "-request.json");
    Path answer = directory.resolve(task + ".json");
    try {
      if (Files.exists(asked)) {
        if (question(Json.readObject(asked, MAX_BYTES)).equals(question(request))) {
          if (Files.exists(answer) && madeIsThere(request)) {
            return Json.readObject(answer, MAX_BYTES);
          }
        } else {
          Files.deleteIfExists(answer);
          if (request.has("directory")) {
            AtomicOutput.deleteTree(Path.of(request.path("directory").asText()));
          }
        }
      }
      Files.createDirectories(directory);
    } catch (IOException e) {
      throw new InputException("cannot use " + directory + ": " + e, e);
    }
    AtomicOutput.write(asked, Json.pretty(request).getBytes(StandardCharsets.UTF_8));
    ChildJvm.run(
        main,
        List.of(task, asked.toString(), answer.toString()),
        directory.resolve(task + ".log"),
        progress,
        name);
    return Json.readObject(answer, MAX_BYTES);
  }

  /** A name as a directory's: "QLoRA NF4 + DQ" as "qlora-nf4-dq". */
  public static String directoryName(String name) {
    String slug = name.toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9]+", "-");
    return slug.replaceAll("^-|-$", "");
  }

  /** A request without what is only for messages. */
  private static JsonNode question(JsonNode request) {
    JsonNode question = Json.value(Json.compact(request), "a request");
    question.findParents(WHERE).forEach(parent -> ((ObjectNode) parent).remove(WHERE));
    return question;
  }

  /** Whether what the request had made, a "target", was not deleted since. */
  private static boolean madeIsThere(ObjectNode request) {
    return !request.has("target") || Files.exists(Path.of(request.path("target").asText()));
  }

  /** Does what a request asks for. */
  public interface Work {
    /** The answer to a request for {@code task}. */
    ObjectNode answer(String task, ObjectNode request, Progress progress) throws IOException;
  }

  /** What a child's main method does with its arguments. */
  public static void child(String[] arguments, Work work) {
    ChildJvm.child(
        progress -> {
          ObjectNode request = Json.readObject(Path.of(arguments[1]), MAX_BYTES);
          ObjectNode answer = work.answer(arguments[0], request, progress);
          AtomicOutput.write(
              Path.of(arguments[2]), Json.pretty(answer).getBytes(StandardCharsets.UTF_8));
        });
  }
}
