import type { Abortable } from '../base/abort.ts'
import type { Bytes } from '../base/validate.ts'
import { invalidType } from '../base/errors/argument.ts'
import { unsupportedPlatform } from '../base/errors/unsupported.ts'
import type { FdSource } from '../descriptor/fd-source.ts'
import { ReceivedFd } from './message.ts'
import { isSupported, loadFailure } from '../native/binding.ts'
import { type RecvFdOptions, UnixSocket } from './unix-socket.ts'

/**
 * Sends one descriptor: UNP's write_fd. See {@link UnixSocket.sendFd}.
 *
 * @param socket the socket to send through
 * @param fd the descriptor, which stays the caller's and open
 * @param data the bytes that carry it (default: one zero byte)
 * @param options `signal`
 * @returns the promise of {@link UnixSocket.sendFd}
 */
export function sendFd(socket: UnixSocket, fd: FdSource, data?: Bytes, options?: Abortable): Promise<void> {
  return socket instanceof UnixSocket ? socket.sendFd(fd, data, options) : notASocket(socket)
}

/**
 * Receives at most one descriptor: UNP's read_fd. See {@link UnixSocket.recvFd}.
 *
 * @param socket the socket to receive from
 * @param options `maxBytes`, `signal`
 * @returns the promise of {@link UnixSocket.recvFd}
 */
export function recvFd(socket: UnixSocket, options?: RecvFdOptions): Promise<ReceivedFd | null> {
  return socket instanceof UnixSocket ? socket.recvFd(options) : notASocket(socket)
}

function notASocket(socket: unknown): Promise<never> {
  return Promise.reject(
    isSupported ? invalidType('socket', 'an instance of UnixSocket', socket) : unsupportedPlatform(loadFailure)
  )
}
