/* Network benchmark inside a guest: TCP to the host through the default gateway, fixed work, one "name=figure" line a
 * case. Arguments: port, then MiB to move each way, then the number of one-byte round trips. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 << 10];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static uint32_t gateway(void)
{
	char line[256], name[64];
	unsigned destination, address;
	FILE *routes = fopen("/proc/net/route", "r");

	while (routes && fgets(line, sizeof line, routes))
		if (sscanf(line, "%63s %x %x", name, &destination, &address) == 3 && destination == 0 && address) {
			fclose(routes);
			return address;
		}
	fprintf(stderr, "no default route\n");
	exit(1);
}

static int dial(int port, char mode)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = gateway() };
	int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);

	for (int tries = 0; connect(s, (struct sockaddr *)&to, sizeof to) < 0; tries++) {
		if (tries == 20) {
			perror("connect");
			exit(1);
		}
		close(s);
		usleep(200000);
		s = socket(AF_INET, SOCK_STREAM, 0);
	}
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (write(s, &mode, 1) != 1)
		exit(1);
	return s;
}

int main(int argc, char **argv)
{
	int port = atoi(argv[1]), trips = argc > 3 ? atoi(argv[3]) : 2000, s;
	long total = (argc > 2 ? atol(argv[2]) : 64) << 20, done;
	unsigned long sum = 0;
	double start;
	ssize_t n;

	s = dial(port, 'p');
	start = now();
	for (int i = 0; i < trips; i++)
		if (write(s, "x", 1) != 1 || read(s, buffer, 1) != 1)
			return 1;
	printf("trip=%.1f\n", trips / (now() - start));
	fflush(stdout);
	close(s);

	s = dial(port, 'r');
	start = now();
	for (done = 0; done < total && (n = read(s, buffer, sizeof buffer)) > 0; done += n)
		sum += (unsigned char)buffer[n - 1] == 0x5a;
	printf("receive=%.2f\n", done / (now() - start) / 1e6);
	fflush(stdout);
	close(s);
	if (done != total || !sum)
		return 1;

	memset(buffer, 0x5a, sizeof buffer);
	s = dial(port, 's');
	start = now();
	for (done = 0; done < total; done += n)
		if ((n = write(s, buffer, total - done < (long)sizeof buffer ? total - done : (long)sizeof buffer)) <= 0)
			return 1;
	shutdown(s, SHUT_WR);
	if (read(s, buffer, 1) != 1)
		return 1;
	printf("send=%.2f\nmoved=%ld\nbench-done\n", done / (now() - start) / 1e6, done);
	return 0;
}
