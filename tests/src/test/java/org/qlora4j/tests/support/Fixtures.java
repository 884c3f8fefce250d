// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Assumptions;
import org.qlora4j.checkpoint.SafetensorsFile;

/**
 * One topic of the fixtures that other libraries made, for example {@code quant4}: a folder of
 * safetensors files with an {@code index.json}.
 *
 * <p>A topic is taken from the test resources ({@code reference/<topic>}) where it was copied
 * there, else from the folder of the system property {@code qlora4j.reference}, else from {@code
 * ../shared/reference} beside the project. A test that needs a topic nobody provides is skipped
 * with that reason.
 */
public final class Fixtures {
  private static final ObjectMapper JSON = new ObjectMapper();

  /** Entries of each topic that a test read to its end. */
  private static final Map<String, Set<String>> READ = new TreeMap<>();

  /** What the check that runs on this thread has opened; null where none runs. */
  private static final ThreadLocal<@Nullable List<Entry>> OPENED = new ThreadLocal<>();

  private record Entry(String topic, String name) {}

  private final String topic;
  private final Path folder;

  private Fixtures(String topic, Path folder) {
    this.topic = topic;
    this.folder = folder;
  }

  /** The topic, or an aborted test that names the folders looked at. */
  public static Fixtures topic(String topic) {
    Path found = find(topic);
    Assumptions.assumeTrue(
        found != null,
        () ->
            "fixtures "
                + topic
                + ": neither in the test resources nor in "
                + root()
                + " (qlora4j.reference)");
    return new Fixtures(topic, java.util.Objects.requireNonNull(found));
  }

  /** Whether the topic is there. */
  public static boolean has(String topic) {
    return find(topic) != null;
  }

  /** Folder of fixtures outside of the test resources. */
  public static Path root() {
    return folder("qlora4j.reference", "reference");
  }

  /** Folder of test data (corpora, small models), from the system property {@code qlora4j.data}. */
  public static Path data() {
    return folder("qlora4j.data", "data");
  }

  private static Path folder(String property, String name) {
    String value = System.getProperty(property, "");
    if (!value.isEmpty()) {
      return Path.of(value).normalize();
    }
    Path project = Path.of(System.getProperty("qlora4j.root", ".."));
    return project.resolve("../shared").resolve(name).normalize();
  }

  private static @Nullable Path find(String topic) {
    URL resource = Fixtures.class.getResource("/reference/" + topic);
    if (resource != null && "file".equals(resource.getProtocol())) {
      try {
        return Path.of(resource.toURI());
      } catch (URISyntaxException e) {
        throw new IllegalStateException(resource + " is not a usable address", e);
      }
    }
    Path folder = root().resolve(topic);
    return Files.isDirectory(folder) ? folder : null;
  }

  /** Names of the topic's safetensors files, without the suffix, sorted. */
  public List<String> names() {
    try (Stream<Path> files = Files.list(folder)) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(file -> file.endsWith(".safetensors"))
          .map(file -> file.substring(0, file.length() - ".safetensors".length()))
          .sorted()
          .toList();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot list " + folder, e);
    }
  }

  /** Names of the topic's folders, for topics that have one fixture a folder, sorted. */
  public List<String> folders() {
    try (Stream<Path> files = Files.list(folder)) {
      return files
          .filter(Files::isDirectory)
          .map(file -> file.getFileName().toString())
          .sorted()
          .toList();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot list " + folder, e);
    }
  }

  /** One of {@link #folders}, counted as read. */
  public Path use(String name) {
    count(name);
    return folder.resolve(name);
  }

  /** A JSON file of the topic that holds cases by key; each case is counted by {@link #count}. */
  public JsonNode json(String file) {
    return read(folder.resolve(file));
  }

  /** An entry of {@link #json} as {@link #entries} names it. */
  public static String entry(String file, String key) {
    return file + "#" + key;
  }

  /** The topic's {@code index.json}. */
  public JsonNode index() {
    return read(folder.resolve("index.json"));
  }

  private static JsonNode read(Path file) {
    try {
      return JSON.readTree(file.toFile());
    } catch (IOException e) {
      throw new UncheckedIOException("cannot read " + file, e);
    }
  }

  /** Opens one of {@link #names} and counts it as read. */
  public SafetensorsFile open(String name) {
    count(name);
    return SafetensorsFile.open(folder.resolve(name + ".safetensors"));
  }

  /**
   * Counts an entry as read: at once, or, inside of {@link #during}, when the check has come to its
   * end.
   */
  public void count(String name) {
    List<Entry> opened = OPENED.get();
    if (opened == null) {
      record(List.of(new Entry(topic, name)));
    } else {
      opened.add(new Entry(topic, name));
    }
  }

  private static void record(List<Entry> entries) {
    synchronized (READ) {
      entries.forEach(e -> READ.computeIfAbsent(e.topic(), key -> new TreeSet<>()).add(e.name()));
    }
  }

  /**
   * Runs a check. What it opens counts as read when it returns; a check that was skipped half-way
   * or failed has read nothing.
   */
  public static void during(Runnable check) {
    List<Entry> opened = new ArrayList<>();
    OPENED.set(opened);
    try {
      check.run();
    } finally {
      OPENED.remove();
    }
    record(opened);
  }

  /** Names of the topics in {@link #root}: its folders. */
  public static List<String> topics() {
    if (!Files.isDirectory(root())) {
      return List.of();
    }
    return new Fixtures("", root()).folders();
  }

  /**
   * Everything of the topic that a test has to read: files (safetensors without the suffix),
   * folders, entries of {@code index.json}, and of another JSON file each key of its object.
   */
  public Set<String> entries() {
    Set<String> entries = new TreeSet<>(names());
    entries.addAll(folders());
    try (Stream<Path> files = Files.list(folder)) {
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        String name = file.getFileName().toString();
        if (name.equals("index.json")) {
          read(file).fieldNames().forEachRemaining(entries::add);
        } else if (name.endsWith(".json") && read(file).isObject()) {
          read(file).fieldNames().forEachRemaining(key -> entries.add(entry(name, key)));
        } else if (!name.endsWith(".safetensors") && !name.equals("README.md")) {
          entries.add(name);
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot list " + folder, e);
    }
    return entries;
  }

  /** Those of {@link #entries} that no test of this run has read. */
  public Set<String> unread() {
    Set<String> left = new TreeSet<>(entries());
    synchronized (READ) {
      left.removeAll(READ.getOrDefault(topic, Set.of()));
    }
    return left;
  }

  /** Prints how many of the topic's entries were read in this run so far, and which were not. */
  public void report() {
    int all = entries().size();
    Set<String> left = unread();
    System.out.println(
        "fixtures "
            + topic
            + ": "
            + (all - left.size())
            + " of "
            + all
            + " read"
            + (left.isEmpty() ? "" : ", not read: " + left));
  }
}
