// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.bytedeco.javacpp.BytePointer;
import org.qlora4j.kernels.abi.qlora4j;

/** The one place where a status of the kernel ABI becomes an exception. */
final class Status {
  /**
   * The device library's error number in a pack's text: {@code code=<number>}, or CUDA's way to
   * name one, {@code cudaErrorNoDevice (100)}.
   */
  private static final Pattern CODE = Pattern.compile("\\b(?:code=|cudaError\\w* \\()(-?\\d+)");

  private Status() {}

  /**
   * Returns quietly for {@code Q4J_OK}.
   *
   * @throws IllegalArgumentException for an invalid argument
   * @throws UnsupportedOperationException when the pack has no such operator, type combination or
   *     device
   * @throws OutOfDeviceMemoryException when the device has no room
   * @throws DeviceException for an error of the device
   * @throws FatalDeviceException when the device is lost to this process
   * @throws IllegalStateException for a defect of the pack
   */
  static void check(int status) {
    if (status != qlora4j.Q4J_OK) {
      throw exception(status, lastError());
    }
  }

  /** Text of the last error on this thread. */
  static String lastError() {
    BytePointer text = qlora4j.q4j_last_error();
    return text == null || text.isNull()
        ? ""
        : text.getString(java.nio.charset.StandardCharsets.UTF_8);
  }

  static RuntimeException exception(int status, String text) {
    String message =
        text.isEmpty() ? "the kernel pack gave status " + status + " without a text" : text;
    return switch (status) {
      case qlora4j.Q4J_INVALID_ARGUMENT -> new IllegalArgumentException(message);
      case qlora4j.Q4J_UNSUPPORTED -> new UnsupportedOperationException(message);
      case qlora4j.Q4J_OUT_OF_DEVICE_MEMORY -> new OutOfDeviceMemoryException(message);
      case qlora4j.Q4J_DEVICE_ERROR -> new DeviceException(message, code(message));
      case qlora4j.Q4J_DEVICE_ERROR_FATAL -> new FatalDeviceException(message, code(message));
      default ->
          new IllegalStateException(
              "defect in the kernel pack (status " + status + "): " + message);
    };
  }

  private static int code(String message) {
    Matcher matcher = CODE.matcher(message);
    return matcher.find() ? Integer.parseInt(matcher.group(1)) : -1;
  }
}
