// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Assumptions;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.Json;

/**
 * A headless Chromium, spoken to over its DevTools protocol: what a page looks like is asked of the
 * program that shows it. It is the one that {@code -Dqlora4j.browser=FILE} names, else the first on
 * PATH.
 */
public final class Browser implements AutoCloseable {
  private static final List<String> NAMES =
      List.of("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome");
  private static final Pattern LISTENING = Pattern.compile("ws://[^/]+");
  private static final Duration PATIENCE = Duration.ofSeconds(20);

  private final Process process;
  private final Path profile;
  private final BlockingQueue<String> messages = new LinkedBlockingQueue<>();
  private final WebSocket socket;
  private int lastId;

  private Browser(Path program) throws IOException, InterruptedException {
    profile = Files.createTempDirectory("qlora4j-browser");
    Path log = profile.resolve("log");
    process =
        new ProcessBuilder(
                program.toString(),
                "--headless",
                "--no-sandbox", // the pages are our own, and containers forbid the sandbox
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                "--user-data-dir=" + profile,
                "about:blank")
            .redirectErrorStream(true)
            .redirectOutput(log.toFile())
            .start();
    socket =
        HttpClient.newHttpClient()
            .newWebSocketBuilder()
            .buildAsync(URI.create(page(log)), new Listener(messages))
            .orTimeout(PATIENCE.toSeconds(), TimeUnit.SECONDS)
            .join();
    call("Page.enable", Json.newObject());
  }

  /** Starts the browser; skips the test, with the reason, where there is none. */
  public static Browser start() throws IOException, InterruptedException {
    Path program = find();
    if (program == null) {
      return Assumptions.abort(
          "no chromium, chromium-browser or google-chrome on PATH; set -Dqlora4j.browser=FILE");
    }
    return new Browser(program);
  }

  private static @Nullable Path find() {
    String property = System.getProperty("qlora4j.browser");
    if (property != null) {
      return Path.of(property);
    }
    for (String name : NAMES) {
      for (String folder : System.getenv().getOrDefault("PATH", "").split(File.pathSeparator, -1)) {
        Path file = Path.of(folder, name);
        if (Files.isExecutable(file)) {
          return file;
        }
      }
    }
    return null;
  }

  /** Where the browser's one tab is spoken to: it prints the port, and lists its tabs there. */
  private String page(Path log) throws IOException, InterruptedException {
    long end = System.nanoTime() + PATIENCE.toNanos();
    while (System.nanoTime() < end) {
      Matcher matcher = LISTENING.matcher(Files.readString(log));
      if (matcher.find()) {
        URI list = URI.create(matcher.group().replace("ws://", "http://") + "/json/list");
        try (InputStream in = list.toURL().openStream()) {
          for (JsonNode tab :
              Json.value(new String(in.readAllBytes(), StandardCharsets.UTF_8), list.toString())) {
            if (tab.path("type").asText().equals("page")) {
              return tab.path("webSocketDebuggerUrl").asText();
            }
          }
        }
      }
      Thread.sleep(50);
    }
    throw new IOException("the browser does not answer: " + Files.readString(log));
  }

  /** Opens a file in a window of this width, in pixels, in light or dark colours, and waits. */
  public void open(Path file, int width, boolean dark) throws InterruptedException {
    ObjectNode size = Json.newObject();
    size.put("width", width).put("height", 900).put("deviceScaleFactor", 1).put("mobile", false);
    call("Emulation.setDeviceMetricsOverride", size);
    ObjectNode media = Json.newObject();
    media
        .putArray("features")
        .addObject()
        .put("name", "prefers-color-scheme")
        .put("value", dark ? "dark" : "light");
    call("Emulation.setEmulatedMedia", media);
    call("Page.navigate", Json.newObject().put("url", file.toUri().toString()));
    long end = System.nanoTime() + PATIENCE.toNanos();
    while (!evaluate("document.readyState + ' ' + location.href")
        .asText()
        .startsWith("complete file:")) {
      if (System.nanoTime() > end) {
        throw new IllegalStateException(file + " does not load");
      }
      Thread.sleep(20);
    }
  }

  /** The value of a JavaScript expression in the page. */
  public JsonNode evaluate(String expression) throws InterruptedException {
    ObjectNode parameters = Json.newObject();
    parameters.put("expression", expression).put("returnByValue", true);
    JsonNode answer = call("Runtime.evaluate", parameters);
    if (answer.has("exceptionDetails")) {
      throw new IllegalStateException(answer.path("exceptionDetails").toString());
    }
    return answer.path("result").path("value");
  }

  /** The whole page as a PNG file. */
  public void screenshot(Path file) throws InterruptedException {
    ObjectNode parameters = Json.newObject().put("captureBeyondViewport", true);
    JsonNode box = call("Page.getLayoutMetrics", Json.newObject()).path("cssContentSize");
    parameters
        .putObject("clip")
        .put("x", 0)
        .put("y", 0)
        .put("width", box.path("width").asDouble())
        .put("height", box.path("height").asDouble())
        .put("scale", 1);
    AtomicOutput.write(
        file,
        Base64.getDecoder()
            .decode(call("Page.captureScreenshot", parameters).path("data").asText()));
  }

  private JsonNode call(String method, ObjectNode parameters) throws InterruptedException {
    int id = ++lastId;
    ObjectNode message = Json.newObject().put("id", id).put("method", method);
    message.set("params", parameters);
    socket.sendText(Json.compact(message), true).join();
    long end = System.nanoTime() + PATIENCE.toNanos();
    while (true) {
      String text = messages.poll(Math.max(0, end - System.nanoTime()), TimeUnit.NANOSECONDS);
      if (text == null) {
        throw new IllegalStateException(method + " was not answered");
      }
      JsonNode answer = Json.value(text, "browser");
      if (answer.path("id").asInt() == id) {
        if (answer.has("error")) {
          throw new IllegalStateException(method + ": " + answer.path("error"));
        }
        return answer.path("result");
      }
    }
  }

  @Override
  public void close() throws IOException, InterruptedException {
    socket.abort();
    List<ProcessHandle> helpers = process.descendants().toList();
    process.destroy();
    if (!process.waitFor(10, TimeUnit.SECONDS)) {
      process.destroyForcibly().waitFor();
    }
    helpers.forEach(ProcessHandle::destroyForcibly);
    // They may still write into the profile for a moment.
    for (int attempt = 0; ; attempt++) {
      try {
        AtomicOutput.deleteTree(profile);
        return;
      } catch (DirectoryNotEmptyException e) {
        if (attempt == 50) {
          throw e;
        }
        Thread.sleep(100);
      }
    }
  }

  /** Puts whole messages into a queue. */
  private static final class Listener implements WebSocket.Listener {
    private final BlockingQueue<String> messages;
    private final StringBuilder part = new StringBuilder();

    Listener(BlockingQueue<String> messages) {
      this.messages = messages;
    }

    @Override
    public @Nullable CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
      part.append(data);
      if (last) {
        messages.add(part.toString());
        part.setLength(0);
      }
      socket.request(1);
      return null;
    }
  }
}
