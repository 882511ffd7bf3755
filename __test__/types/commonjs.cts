import fdpass = require('fdpass')
import { exactly } from './exports.ts'

exactly<[fdpass.UnixSocket, fdpass.UnixSocket]>()(fdpass.socketpair())
exactly<Promise<fdpass.Message | null>>()(fdpass.UnixSocket.from(3).recv())
// @ts-expect-error
fdpass.UnixSocket.from('3')
