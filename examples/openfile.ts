// openfile SOCKET PATH: opens PATH and passes the descriptor over the inherited socket of that number, or, where it
// could not be opened, the error's number and no descriptor (UNP vol. 1, 15.7).
import { open } from 'node:fs/promises'
import { UnixSocket, sendFd } from 'fdpass'

const [socketNumber, path] = process.argv.slice(2)
const socket = UnixSocket.from(Number(socketNumber))

try {
  const file = await open(path!)
  await sendFd(socket, file)
  await file.close() // mycat has a descriptor of its own now
} catch (error) {
  const { errno } = error as NodeJS.ErrnoException
  if (errno === undefined) throw error
  await socket.send(String(errno))
}
socket.close()
