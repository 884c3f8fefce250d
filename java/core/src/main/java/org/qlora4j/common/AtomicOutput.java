// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.common;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.channels.FileChannel;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.DirectoryStream;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * Output that appears whole or not at all. Content is written under a hidden name beside the target
 * (the same file system), synced to disk, and moved into place.
 *
 * <p>A file replaces its predecessor in one step. A directory cannot: the old one is moved aside,
 * the new one moved in, the old one deleted. A process killed between the two moves leaves the old
 * directory complete under a hidden name, and {@link #recover} puts it back, so at every instant
 * one complete version is on disk.
 *
 * <pre>{@code
 * try (AtomicOutput out = AtomicOutput.directory(target)) {
 *   writeFilesInto(out.path());
 *   out.commit();
 * }
 * }</pre>
 */
public final class AtomicOutput implements AutoCloseable {
  /** Hidden names: ".{target}.q4j-{new|old}-{process id}-{random}". */
  private static final Pattern HIDDEN =
      Pattern.compile("\\.(.+)\\.q4j-(new|old)-(\\d+)-([0-9a-f]{8})");

  /**
   * Marks this process's own names, so that a leftover of an earlier process with the same id is
   * not taken for ours.
   */
  private static final String RUN = UUID.randomUUID().toString().substring(0, 8);

  /** Hidden name of a resumable output: ".{target}.q4j-part". */
  private static final String PART = ".q4j-part";

  private static final String LOCK_FILE = ".q4j-lock";

  private final Path target;
  private final Path path;
  private final boolean directory;
  private final boolean resumable;
  private @Nullable FileChannel lock;
  private boolean keep;
  private boolean committed;

  private AtomicOutput(Path target, boolean directory, boolean resumable) {
    this.resumable = resumable;
    this.target = target.toAbsolutePath().normalize();
    this.directory = directory;
    Path name = this.target.getFileName();
    Path parent = this.target.getParent();
    if (name == null || parent == null) {
      throw new InputException(
          "cannot write to " + target + ": expected a path below an existing directory");
    }
    try {
      Files.createDirectories(parent);
      if (Files.exists(this.target) && Files.isDirectory(this.target) != directory) {
        throw new InputException(
            "cannot write "
                + target
                + ": expected a "
                + (directory ? "directory" : "file")
                + " or nothing there, found a "
                + (directory ? "file" : "directory"));
      }
      recover(this.target);
      this.path =
          resumable ? this.target.resolveSibling("." + name + PART) : hidden(this.target, "new");
      if (resumable) {
        Files.createDirectories(this.path);
        this.lock = lock(target, this.path.resolve(LOCK_FILE));
        return;
      }
      deleteTree(this.path);
      if (directory) {
        Files.createDirectory(this.path);
      }
    } catch (IOException e) {
      throw new InputException("cannot write " + target + ": " + reason(e), e);
    }
  }

  /** Output of one file. `path()` does not exist yet. Parent directories are made. */
  public static AtomicOutput file(Path target) {
    return new AtomicOutput(target, false, false);
  }

  /**
   * Output of a directory. `path()` is an empty directory to write into. Parent directories are
   * made.
   */
  public static AtomicOutput directory(Path target) {
    return new AtomicOutput(target, true, false);
  }

  /**
   * Output of a directory that a later run may go on with: `path()` has the same name in every run,
   * holds what an earlier one left, and stays where {@link #keep} was called and no commit came.
   * One process at a time has it.
   *
   * @throws InputException when another process does
   */
  public static AtomicOutput resumable(Path target) {
    return new AtomicOutput(target, true, true);
  }

  /** From now on, what was written is worth going on with. */
  public void keep() {
    if (!resumable) {
      throw new IllegalStateException("output of " + target + " cannot be gone on with");
    }
    keep = true;
  }

  private static FileChannel lock(Path target, Path file) throws IOException {
    FileChannel channel =
        FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
    try {
      if (channel.tryLock() != null) {
        return channel;
      }
    } catch (OverlappingFileLockException e) {
      // Held by another thread of this process.
    }
    channel.close();
    throw new InputException(
        "cannot write " + target + ": another run is writing it; wait for it or end it");
  }

  /** Deletes everything in a directory but the lock of a resumable output. */
  public static void clear(Path directory) throws IOException {
    try (DirectoryStream<Path> entries = Files.newDirectoryStream(directory)) {
      for (Path entry : entries) {
        if (!entry.endsWith(LOCK_FILE)) {
          deleteTree(entry);
        }
      }
    }
  }

  /** Writes a small text or byte file in one call. */
  public static void write(Path target, byte[] content) {
    try (AtomicOutput out = file(target)) {
      Files.write(out.path(), content);
      out.commit();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + target, e);
    }
  }

  /** Where to write: a hidden file or directory beside the target. */
  public Path path() {
    return path;
  }

  /**
   * Syncs what was written and moves it into place. Nothing of the old content remains afterwards.
   */
  public void commit() throws IOException {
    if (committed) {
      throw new IllegalStateException(target + " is already committed");
    }
    syncTree(path);
    Path parent = parentOf(target);
    if (!directory) {
      Files.move(path, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      sync(parent);
      committed = true;
      return;
    }
    Path old = null;
    if (Files.exists(target, LinkOption.NOFOLLOW_LINKS)) {
      old = hidden(target, "old");
      deleteTree(old);
      Files.move(target, old, StandardCopyOption.ATOMIC_MOVE);
    }
    Files.move(path, target, StandardCopyOption.ATOMIC_MOVE);
    sync(parent);
    committed = true;
    if (resumable) {
      // Not before the move: without it another run would take what is being moved for a leftover.
      Files.deleteIfExists(target.resolve(LOCK_FILE));
    }
    if (old != null) {
      deleteTree(old);
    }
  }

  /** Without a commit, deletes what was written. */
  @Override
  public void close() {
    if (!committed && !keep) {
      try {
        deleteTree(path);
      } catch (IOException e) {
        // The next run on this target cleans it up; the failure that brought us here is what the
        // user must see.
      }
    }
    if (lock != null) {
      try {
        lock.close();
      } catch (IOException e) {
        throw new UncheckedIOException("cannot release " + path, e);
      }
    }
  }

  /**
   * Cleans up after killed runs: deletes unfinished output for `target`, and puts a replaced
   * directory back where a run was killed between moving the old one aside and moving the new one
   * in. Leftovers of processes that still run stay.
   */
  public static void recover(Path target) throws IOException {
    Path absolute = target.toAbsolutePath().normalize();
    Path parent = parentOf(absolute);
    Path name = absolute.getFileName();
    if (name == null || !Files.isDirectory(parent)) {
      return;
    }
    try (DirectoryStream<Path> entries = Files.newDirectoryStream(parent, ".*.q4j-*")) {
      for (Path entry : entries) {
        Path entryName = entry.getFileName();
        Matcher m = HIDDEN.matcher(entryName == null ? "" : entryName.toString());
        if (!m.matches()
            || !m.group(1).equals(name.toString())
            || stillWritten(m.group(3), m.group(4))) {
          continue;
        }
        if (m.group(2).equals("old") && !Files.exists(absolute, LinkOption.NOFOLLOW_LINKS)) {
          Files.move(entry, absolute, StandardCopyOption.ATOMIC_MOVE);
          sync(parent);
        } else {
          deleteTree(entry);
        }
      }
    }
  }

  private static boolean stillWritten(String processId, String run) {
    if (run.equals(RUN)) {
      return true;
    }
    long pid;
    try {
      pid = Long.parseLong(processId);
    } catch (NumberFormatException e) {
      return false;
    }
    return pid != ProcessHandle.current().pid()
        && ProcessHandle.of(pid).map(ProcessHandle::isAlive).orElse(false);
  }

  private static Path hidden(Path target, String kind) {
    return target.resolveSibling(
        "."
            + target.getFileName()
            + ".q4j-"
            + kind
            + "-"
            + ProcessHandle.current().pid()
            + "-"
            + RUN);
  }

  private static Path parentOf(Path absolute) {
    Path parent = absolute.getParent();
    return parent == null ? absolute : parent;
  }

  private static String reason(IOException e) {
    String message = e.getMessage();
    return e.getClass().getSimpleName() + (message == null ? "" : " (" + message + ")");
  }

  private static void syncTree(Path root) throws IOException {
    Files.walkFileTree(
        root,
        new SimpleFileVisitor<>() {
          @Override
          public FileVisitResult visitFile(Path file, BasicFileAttributes attributes)
              throws IOException {
            if (file.endsWith(LOCK_FILE)) {
              return FileVisitResult.CONTINUE; // closing another channel to it would end the lock
            }
            // A copied file may be read-only; Linux syncs through a read-only channel as well.
            StandardOpenOption mode =
                Files.isWritable(file) ? StandardOpenOption.WRITE : StandardOpenOption.READ;
            try (FileChannel channel = FileChannel.open(file, mode)) {
              channel.force(true);
            }
            return FileVisitResult.CONTINUE;
          }

          @Override
          public FileVisitResult postVisitDirectory(Path dir, @Nullable IOException e)
              throws IOException {
            if (e != null) {
              throw e;
            }
            sync(dir);
            return FileVisitResult.CONTINUE;
          }
        });
  }

  /** Syncs a directory's entries; Linux allows it through a read-only channel. */
  private static void sync(Path dir) throws IOException {
    try (FileChannel channel = FileChannel.open(dir, StandardOpenOption.READ)) {
      channel.force(true);
    }
  }

  /**
   * Deletes a file or a directory with all it holds; links are deleted, not followed. Nothing there
   * is fine.
   */
  public static void deleteTree(Path root) throws IOException {
    if (!Files.exists(root, LinkOption.NOFOLLOW_LINKS)) {
      return;
    }
    Files.walkFileTree(
        root,
        new SimpleFileVisitor<>() {
          @Override
          public FileVisitResult visitFile(Path file, BasicFileAttributes attributes)
              throws IOException {
            Files.deleteIfExists(file);
            return FileVisitResult.CONTINUE;
          }

          @Override
          public FileVisitResult visitFileFailed(Path file, IOException e) throws IOException {
            if (e instanceof NoSuchFileException) {
              return FileVisitResult.CONTINUE;
            }
            throw e;
          }

          @Override
          public FileVisitResult postVisitDirectory(Path dir, @Nullable IOException e)
              throws IOException {
            if (e != null) {
              throw e;
            }
            Files.deleteIfExists(dir);
            return FileVisitResult.CONTINUE;
          }
        });
  }
}
