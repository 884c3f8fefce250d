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
  private static final Map<String, Set<String>> USED = new TreeMap<>();

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

  /** One of {@link #folders}, counted as used. */
  public Path use(String name) {
    count(name);
    return folder.resolve(name);
  }

  /** The topic's {@code index.json}. */
  public JsonNode index() {
    Path file = folder.resolve("index.json");
    try {
      return JSON.readTree(file.toFile());
    } catch (IOException e) {
      throw new UncheckedIOException("cannot read " + file, e);
    }
  }

  /** Opens one of {@link #names} and counts it as used. */
  public SafetensorsFile open(String name) {
    count(name);
    return SafetensorsFile.open(folder.resolve(name + ".safetensors"));
  }

  private void count(String name) {
    synchronized (USED) {
      USED.computeIfAbsent(topic, key -> new TreeSet<>()).add(name);
    }
  }

  /** Prints how many of the topic's files and folders were used in this run, and which were not. */
  public void report() {
    List<String> all = new ArrayList<>(names());
    all.addAll(folders());
    Set<String> used;
    synchronized (USED) {
      used = new TreeSet<>(USED.getOrDefault(topic, Set.of()));
    }
    List<String> left = all.stream().filter(name -> !used.contains(name)).toList();
    System.out.println(
        "fixtures "
            + topic
            + ": "
            + used.size()
            + " of "
            + all.size()
            + " used"
            + (left.isEmpty() ? "" : ", not used: " + left));
  }
}
