// openfile SOCKET PATH: opens PATH and sends the descriptor over the inherited socket with the number SOCKET. If PATH cannot
// be opened, sends the errno without a descriptor (UNP vol. 1, section 15.7).
import { open } from 'node:fs/promises'
import { UnixSocket, sendFd } from 'fdpass'

const [socketNumber, path] = process.argv.slice(2)
const socket = UnixSocket.from(Number(socketNumber))

try {
  const file = await open(path!)
  await sendFd(socket, file)
  await file.close() // mycat receives a duplicate
} catch (error) {
  const { errno } = error as NodeJS.ErrnoException
  if (errno === undefined) throw error
  await socket.send(String(errno))
}
socket.close()
