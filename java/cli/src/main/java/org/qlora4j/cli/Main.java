// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import org.qlora4j.common.Failures;
import org.qlora4j.common.Text;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.ParameterException;

/**
 * {@code qlora4j}. Exit codes: 0 done, 2 the user can fix it (one line says what), 1 a defect (with
 * a stack trace to report).
 */
@Command(
    name = "qlora4j",
    mixinStandardHelpOptions = true,
    versionProvider = Version.class,
    description = "Fine-tunes large language models in 4 bits.",
    subcommands = {
      TrainCommand.class,
      GenerateCommand.class,
      QuantizeCommand.class,
      MergeCommand.class,
      ExportCommand.class,
      InfoCommand.class,
      MakeModelCommand.class,
      PlanCommand.class,
      BenchCommand.class,
      DataCommand.class,
      StudyCommand.class
    },
    footer = {
      "",
      "Exit codes: 0 done, 2 you can fix it, 1 a defect of qlora4j.",
      "Start with: qlora4j train examples/quickstart.yaml"
    })
public final class Main implements Runnable {
  private static final String LOG_FORMAT = "java.util.logging.SimpleFormatter.format";

  /** Done. */
  static final int DONE = 0;

  /** A defect; please report. */
  static final int DEFECT = 1;

  /** The user can fix it. */
  static final int FIXABLE = 2;

  @CommandLine.Spec private CommandLine.Model.CommandSpec spec;

  /** For picocli. */
  @SuppressWarnings("NullAway.Init") // picocli sets the fields
  public Main() {}

  /** Runs a command and exits with its code. */
  public static void main(String[] args) {
    // Korean text must come out as it is, whatever the locale of the machine says.
    PrintStream out = utf8(FileDescriptor.out);
    PrintStream err = utf8(FileDescriptor.err);
    System.setOut(out);
    System.setErr(err);
    // One line a message, without the time and the class that java.util.logging puts on a line of
    // its own.
    if (System.getProperty(LOG_FORMAT) == null) {
      System.setProperty(LOG_FORMAT, "%5$s%6$s%n");
    }
    int code =
        run(
            new PrintWriter(out, true, StandardCharsets.UTF_8),
            new PrintWriter(err, true, StandardCharsets.UTF_8),
            args);
    out.flush();
    err.flush();
    System.exit(code);
  }

  private static PrintStream utf8(FileDescriptor descriptor) {
    return new PrintStream(new FileOutputStream(descriptor), true, StandardCharsets.UTF_8);
  }

  /** Runs a command: results to `out`, progress and errors to `err`. Gives the exit code. */
  public static int run(PrintWriter out, PrintWriter err, String... args) {
    CommandLine commandLine = new CommandLine(new Main());
    commandLine.setOut(out);
    commandLine.setErr(err);
    commandLine.setCaseInsensitiveEnumValuesAllowed(true);
    commandLine.setUsageHelpAutoWidth(true);
    commandLine.setParameterExceptionHandler(
        (exception, arguments) -> wrongArguments(exception, err));
    commandLine.setExecutionExceptionHandler(
        (exception, command, result) -> failed(exception, err));
    try {
      return commandLine.execute(args);
    } catch (OutOfMemoryError | LinkageError e) {
      return failed(e, err);
    } finally {
      out.flush();
      err.flush();
    }
  }

  private static int wrongArguments(ParameterException e, PrintWriter err) {
    err.println(
        "qlora4j: "
            + Text.oneLine(String.valueOf(e.getMessage()))
            + "; see "
            + e.getCommandLine().getCommandSpec().qualifiedName()
            + " --help");
    return FIXABLE;
  }

  private static int failed(Throwable e, PrintWriter err) {
    String fixable = Failures.fixable(e);
    if (fixable != null) {
      err.println("qlora4j: " + fixable);
      return FIXABLE;
    }
    err.println("qlora4j: a defect of qlora4j; please report it with the lines below");
    e.printStackTrace(err);
    return DEFECT;
  }

  /** Without a command: the help. */
  @Override
  public void run() {
    spec.commandLine().usage(spec.commandLine().getOut());
  }
}
